"""What may be kept of samples and late labels: nothing that a release's signed policy hides reaches the spool.

Whoever is on the device to see samples (a new model's proof, a shadow) sees them before, exact, and in memory alone.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_edge.observe.arrow import Rows
from skerry_shared import privacy
from skerry_shared.errors import ConfigError, InputError
from skerry_shared.files import write_durably
from skerry_shared.privacy import KEY_BYTES
from skerry_shared.release import Manifest, TensorSpec

OUR_ID = re.compile(r"[0-9a-f]{24}(\.[0-9]+)?")  # a prediction id as the engine gives it, which tells nothing


def pseudonym_key(path: Path) -> bytes:
    """The key of this device's pseudonyms: what was put there, else made now. Raises ConfigError if it is none."""
    if not path.exists():
        write_durably(path, os.urandom(KEY_BYTES), mode=0o600)
    return checked_key(path)


def checked_key(path: Path) -> bytes:
    """The content of a key file. Raises ConfigError."""
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: has {len(key)} bytes, a key has {KEY_BYTES}: openssl rand -out {path} {KEY_BYTES}")
    return key


class Redactor:
    """One device's. Any thread."""

    def __init__(self, key: bytes, installed: Iterable[Manifest]) -> None:
        """``key`` makes the pseudonyms; ``installed`` are the releases whose samples may come before ``know``."""
        self._key, self._known = key, dict[tuple[str, int], Manifest]()
        for manifest in installed:
            self.know(manifest)

    def know(self, manifest: Manifest) -> None:
        """Samples of this release may come from now on."""
        self._known[manifest.workload, manifest.release] = manifest

    def samples(self, rows: Rows) -> Rows:
        """Rows of table "samples" as they may be kept.

        Raises InputError if an input is not the model's, or a release not known here: nothing says what may be kept.
        """
        models = list(zip(rows["workload"], rows["release"], strict=True))
        policies = {
            model: manifest for model in set(models) if privacy.acts((manifest := self._manifest(*model)).fields)
        }
        if policies:
            rows = rows | {name: list(rows[name]) for name in ("input", "prediction_id")}
        for model, manifest in policies.items():
            self._redact(rows, [place for place, found in enumerate(models) if found == model], manifest)
        return rows

    def truths(self, truths: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        """Late labels as they may be kept: (prediction id, label) each.

        Where any release has something to hide, a text that is neither an id of ours nor a label of a model may be
        anything: a pseudonym stands for it.
        """
        known = list(self._known.values())  # at once: another thread may add one
        if not any(privacy.acts(manifest.fields) for manifest in known):
            return truths
        labels = {label for manifest in known for label in manifest.labels}
        return [(self._id(name), label if label in labels else self._text("label", label)) for name, label in truths]

    def _manifest(self, workload: str, release: int) -> Manifest:
        try:
            return self._known[workload, release]
        except KeyError:
            raise InputError(
                f"samples: {workload} release {release} is not known here, nor what to keep of it"
            ) from None

    def _redact(self, rows: Rows, places: Sequence[int], manifest: Manifest) -> None:
        """Change these rows, which are of one release, in place."""
        (spec,), key = manifest.inputs, privacy.workload_key(self._key, manifest.workload)
        inputs = _inputs(spec, [rows["input"][place] for place in places])
        for place, kept in zip(places, privacy.treat(inputs, manifest.fields, key), strict=True):
            rows["input"][place] = kept.tobytes()
            rows["prediction_id"][place] = self._id(rows["prediction_id"][place])

    def _id(self, name: str) -> str:
        return name if OUR_ID.fullmatch(name) else self._text("prediction id", name)

    def _text(self, name: str, text: str) -> str:
        return privacy.pseudonym_of(text, name, self._key)


def _inputs(spec: TensorSpec, raw: Sequence[bytes]) -> NDArray[Any]:
    try:
        return np.stack([np.frombuffer(each, spec.dtype).reshape(spec.shape[1:]) for each in raw])
    except ValueError as error:
        raise InputError(f"samples: input is no {spec.dtype} {list(spec.shape[1:])}: {error}") from None
