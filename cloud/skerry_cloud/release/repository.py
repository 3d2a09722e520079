"""The TUF repository (The Update Framework 1.0) that devices fetch from: plain files, so that any web server, object
store or CDN can carry it.

    root ─ targets ─ models-<workload>   one delegation a workload, terminating: only its key speaks for <workload>/*/*
         └ snapshot, timestamp           online, signed anew at each publication, the timestamp also as it ages

Every publication is written in the order in which a client reads backwards: bundles, the workload's role, snapshot,
and the timestamp last. A crash in between leaves the repository as it was.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import StorageError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from skerry_cloud.keys import Keys
from skerry_shared.errors import ConfigError, StateError
from skerry_shared.files import write_durably

LIFETIME = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "models": timedelta(days=365),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=7),
}
RENEW_MODELS = timedelta(days=60)
RENEW = timedelta(days=3)  # a timestamp with less than this to live is signed anew

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Published:
    """Where a bundle went, and what names its content."""

    path: str
    sha256: str
    length: int


class Repository:
    """Publishes bundles. One process owns the folder."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        """``folder`` gets ``metadata/`` and ``targets/``, both to be served as they are."""
        self._metadata, self._targets, self._keys = folder / "metadata", folder / "targets", keys

    def create(self, now: datetime) -> None:
        """Make the empty repository of a new fleet."""
        for folder in (self._metadata, self._targets):
            folder.mkdir(parents=True)
        root = Root(version=1, consistent_snapshot=True, expires=_expiry("root", now))
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(self._signer(role).public_key, role)
        self._write("root", Metadata(root))
        self._write("targets", Metadata(Targets(version=1, expires=_expiry("targets", now))))
        self._write("snapshot", Metadata(Snapshot(version=1, expires=_expiry("snapshot", now))))
        self._write("timestamp", Metadata(Timestamp(version=1, expires=_expiry("timestamp", now))))

    @property
    def root(self) -> bytes:
        """The first root: where a device's trust starts."""
        return (self._metadata / "1.root.json").read_bytes()

    def publish(self, workload: str, release: int, bundles: Mapping[str, bytes], now: datetime) -> dict[str, Published]:
        """Sign and lay out a release's bundles, by profile. Raises StateError if one of them is there already.

        Release 0 is of candidates, which are measured and withdrawn.
        """
        role = f"models-{workload}"
        targets = self._models(workload, now)
        placed = {
            profile: self._place(f"{workload}/{release}/{profile}.bundle", data) for profile, data in bundles.items()
        }
        for published in placed.values():
            if published.path in targets.signed.targets:
                raise StateError(f"release: {workload}/{release} is published already")
            info = TargetFile(published.length, {"sha256": published.sha256}, published.path)
            targets.signed.targets[published.path] = info
        self._write_models(role, targets, now)
        return placed

    def withdraw(self, workload: str, paths: Iterable[str], now: datetime) -> None:
        """Sign that these are gone, then remove their files. What is gone already stays so."""
        role = f"models-{workload}"
        models = self._read(role, Targets)
        gone = [info for path in paths if (info := models.signed.targets.pop(path, None))]
        self._write_models(role, models, now)
        for info in gone:
            place(self._targets, info.path, info.hashes["sha256"]).unlink(missing_ok=True)

    def withdraw_candidates(self, now: datetime) -> None:
        """Whatever is left of release 0, of each workload."""
        for role in self._delegated():
            workload = role.removeprefix("models-")
            paths = [path for path in self._read(role, Targets).signed.targets if path.startswith(f"{workload}/0/")]
            if paths:
                self.withdraw(workload, paths, now)
            shutil.rmtree(self._targets / workload / "0", ignore_errors=True)

    def newest(self, workload: str) -> int:
        """Number of the newest published release of a workload, 0 for none."""
        if f"models-{workload}" not in self._delegated():
            return 0
        targets = self._read(f"models-{workload}", Targets).signed.targets
        return max((int(path.split("/")[1]) for path in targets), default=0)

    def renew(self, now: datetime) -> bool:
        """Sign anew what would soon expire, except what needs an offline key. True if something was written."""
        aged = [role for role in self._delegated() if self._read(role, Targets).signed.expires - now < RENEW_MODELS]
        for role in aged:
            self._write_models(role, self._read(role, Targets), now)
        if self._read("timestamp", Timestamp).signed.expires - now < RENEW:
            self._snapshot(None, 0, now)
            return True
        return bool(aged)

    def _delegated(self) -> list[str]:
        delegations = self._read("targets", Targets).signed.delegations
        return list(delegations.roles or {}) if delegations else []

    def _models(self, workload: str, now: datetime) -> Metadata[Targets]:
        role = f"models-{workload}"
        if role in self._delegated():
            return self._read(role, Targets)
        top = self._read("targets", Targets)
        signer = self._signer(role)
        delegation = DelegatedRole(role, [], 1, True, [f"{workload}/*/*"])
        if top.signed.delegations is None:
            top.signed.delegations = Delegations({}, {})
        roles = top.signed.delegations.roles
        assert roles is not None
        roles[role] = delegation
        top.signed.add_key(signer.public_key, role)
        self._raise_version(top.signed, "targets", now)
        models = Metadata(Targets(version=1, expires=_expiry("models", now)))
        self._write(role, models)
        self._write("targets", top)
        self._snapshot(role, 1, now, targets=top.signed.version)
        return models

    def _write_models(self, role: str, models: Metadata[Targets], now: datetime) -> None:
        self._raise_version(models.signed, "models", now)
        self._write(role, models)
        self._snapshot(role, models.signed.version, now)

    def _snapshot(self, role: str | None, version: int, now: datetime, targets: int | None = None) -> None:
        snapshot = self._read("snapshot", Snapshot)
        if role:
            snapshot.signed.meta[f"{role}.json"] = MetaFile(version)
        if targets:
            snapshot.signed.meta["targets.json"] = MetaFile(targets)
        self._raise_version(snapshot.signed, "snapshot", now)
        self._write("snapshot", snapshot)
        timestamp = self._read("timestamp", Timestamp)
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        self._raise_version(timestamp.signed, "timestamp", now)
        self._write("timestamp", timestamp)

    def _place(self, path: str, data: bytes) -> Published:
        sha256 = hashlib.sha256(data).hexdigest()
        target = place(self._targets, path, sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, data)
        return Published(path, sha256, len(data))

    def _signer(self, role: str) -> CryptoSigner:
        return CryptoSigner(self._keys.signer("models" if role.startswith("models-") else role))

    def _raise_version(self, signed: Signed, lifetime: str, now: datetime) -> None:
        signed.version += 1
        signed.expires = _expiry(lifetime, now)

    def _write(self, role: str, metadata: Metadata[S]) -> None:
        metadata.sign(self._signer(role))
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        write_durably(self._metadata / name, metadata.to_bytes())

    def _read(self, role: str, kind: type[S]) -> Metadata[S]:
        name = "timestamp.json" if role == "timestamp" else f"{self._newest(role)}.{role}.json"
        try:
            metadata: Metadata[S] = Metadata.from_file(str(self._metadata / name))
        except StorageError as error:
            raise ConfigError(f"repository: {error}") from None
        assert isinstance(metadata.signed, kind)
        return metadata

    def _newest(self, role: str) -> int:
        if role == "snapshot":
            return self._read("timestamp", Timestamp).signed.snapshot_meta.version
        return self._read("snapshot", Snapshot).signed.meta[f"{role}.json"].version


def place(targets: Path, path: str, sha256: str) -> Path:
    """Where a target's file lies: under its digest, so that no reader finds another one (consistent snapshots)."""
    return (targets / path).with_name(f"{sha256}.{Path(path).name}")


def _expiry(role: str, now: datetime) -> datetime:
    return (now + LIFETIME[role]).astimezone(timezone.utc).replace(microsecond=0)
