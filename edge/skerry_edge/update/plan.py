"""Whether an assignment counts. Pure: bytes, keys, what is stored and the time in; a decision or an error out.

In this order, each with its error, and nothing is believed before its check:

1. the director signed it                     SignatureError
2. it is for this fleet and this device, and  TrustError
   in a mode that this agent knows
3. its counter is above the last one seen     ReplayError; the same document again is known, not an error
4. it has not expired                         ExpiredError
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from skerry_edge.update.state import Stored
from skerry_shared import signing, wire
from skerry_shared.errors import ExpiredError, ReplayError, TrustError
from skerry_shared.release import MODES, Assignment, Manifest, Signed


@dataclass(frozen=True)
class Device:
    """Who this device is and what it can run."""

    fleet: str
    name: str
    arch: str  # as `uname -m` says
    runtimes: tuple[str, ...]
    memory_bytes: int


def accept(data: bytes, director: Ed25519PublicKey, device: Device, stored: Stored, now: float) -> Stored | None:
    """What to store for a received Signed assignment; None if it is known already. Raises TrustError or InputError."""
    signed = wire.decode(Signed, data)
    assignment = signing.verify(Assignment, signed, director)
    if (assignment.fleet, assignment.device) != (device.fleet, device.name):
        raise TrustError(f"assignment: for {assignment.device!r} in {assignment.fleet!r}, this is {device.name!r}")
    if assignment.mode not in MODES:
        raise TrustError(f"assignment: mode {assignment.mode!r} is unknown; update this agent first")
    if signed.document == stored.document:
        return None
    if assignment.counter <= stored.counter:
        raise ReplayError(f"assignment: counter {assignment.counter} is not above {stored.counter}")
    floor = max(stored.floor, assignment.issued)
    check_expiry(assignment, max(now, floor))
    return Stored(assignment.counter, floor, signed.document)


def check_expiry(assignment: Assignment, now: float) -> None:
    """Raises ExpiredError once the assignment may not be begun any more."""
    if now >= assignment.expires:
        raise ExpiredError(f"assignment: expired {now - assignment.expires:.0f} s ago")


def check_manifest(assignment: Assignment, manifest: Manifest) -> None:
    """Raises TrustError unless the bundle is the release and the target that were assigned."""
    assigned = (assignment.workload, assignment.release, assignment.target)
    if (manifest.workload, manifest.release, manifest.target) != assigned:
        raise TrustError(f"bundle: is {manifest.workload} {manifest.release}, not what was assigned")
