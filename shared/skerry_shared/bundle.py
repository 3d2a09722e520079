"""A bundle: one model for one target, with all that a device needs to judge it. A deterministic, uncompressed tar.

    manifest.json        protobuf JSON of a Manifest
    <model_file>         the model, as named in the manifest
    <more files>         that the model's runtime may use, such as TensorRT's calibration.cache
    golden/in/NAME.npy   known inputs, one file a tensor
    golden/out/NAME.npy  what the model must answer to them, within the manifest's tolerance

The same parts give the same bytes, so that a digest names a bundle. Reading refuses anything else: other members,
links, sizes beyond ``MAX_BYTES``.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skerry_shared import wire
from skerry_shared.errors import InputError, ModelError
from skerry_shared.files import sync_folder, write_durably
from skerry_shared.release import Manifest

if TYPE_CHECKING:
    import tarfile

MAX_BYTES = 1 << 30  # of one member; models for devices of this kind are megabytes
MANIFEST = "manifest.json"

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Golden:
    """Known inputs and the outputs that belong to them, by tensor name; the first dimension is the example."""

    inputs: Tensors
    outputs: Tensors


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle: its manifest, where the model lies, and the golden pairs."""

    manifest: Manifest
    model: Path
    golden: Golden


def digest(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()


def pack(manifest: Manifest, model: bytes, golden: Golden, extras: Mapping[str, bytes] | None = None) -> bytes:
    """The bundle's bytes. ``extras``: more files beside the model, by name."""
    import tarfile

    members = {MANIFEST: wire.to_json(manifest).encode(), manifest.model_file: model, **dict(extras or {})}
    members |= {f"golden/in/{name}.npy": _npy(array) for name, array in sorted(golden.inputs.items())}
    members |= {f"golden/out/{name}.npy": _npy(array) for name, array in sorted(golden.outputs.items())}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)  # owner, time and mode keep their fixed defaults
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> Bundle:
    """Write the members durably below ``folder`` (created) and load them. Raises ModelError if it is no bundle."""
    import tarfile

    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                _check_member(member)
                content = archive.extractfile(member)
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(path, content.read() if content else b"")
    except tarfile.TarError as error:
        raise ModelError(f"bundle: not a tar archive: {error}") from None
    sync_folder(folder.parent)
    return load(folder)


def peek(data: bytes) -> Manifest:
    """The manifest of a packed bundle. Raises ModelError if it has none."""
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        member = archive.extractfile(MANIFEST)
        assert member  # extractfile raises for a missing one; the manifest is a regular file
        return wire.from_json(Manifest, member.read())


def manifest_of(folder: Path) -> Manifest:
    """The manifest of an unpacked bundle. Raises ModelError if it is missing or damaged."""
    try:
        return wire.from_json(Manifest, (folder / MANIFEST).read_bytes())
    except (OSError, InputError) as error:
        raise ModelError(f"bundle in {folder.name}: {error}") from None


def load(folder: Path) -> Bundle:
    """Load an unpacked bundle. Raises ModelError if a part is missing or damaged."""
    manifest = manifest_of(folder)
    try:
        golden = Golden(_arrays(folder / "golden/in"), _arrays(folder / "golden/out"))
    except (OSError, ValueError) as error:
        raise ModelError(f"bundle in {folder.name}: {error}") from None
    model = folder / PurePosixPath(manifest.model_file).name
    if not model.is_file():
        raise ModelError(f"bundle in {folder.name}: no model file {manifest.model_file!r}")
    for specs, arrays in ((manifest.inputs, golden.inputs), (manifest.outputs, golden.outputs)):
        if missing := {spec.name for spec in specs} ^ arrays.keys():
            raise ModelError(f"bundle in {folder.name}: golden values and manifest do not agree on {min(missing)!r}")
    return Bundle(manifest, model, golden)


def _check_member(member: "tarfile.TarInfo") -> None:
    parts = PurePosixPath(member.name).parts
    placed = len(parts) == 1 or (len(parts) == 3 and parts[0] == "golden" and parts[1] in ("in", "out"))
    if not member.isfile() or not placed or ".." in parts or parts[0].startswith((".", "/")):
        raise ModelError(f"bundle: unexpected member {member.name!r}")
    if member.size > MAX_BYTES:
        raise ModelError(f"bundle: member {member.name!r} has {member.size} bytes, more than {MAX_BYTES}")


def _npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _arrays(folder: Path) -> dict[str, NDArray[np.generic]]:
    return {file.stem: np.load(file, allow_pickle=False) for file in sorted(folder.glob("*.npy"))}
