"""Whether an assignment counts. Pure: bytes, keys, what is stored and the time in; a decision or an error out.

In this order, each with its error, and nothing is believed before its check:

1. the director signed it                     SignatureError
2. it is for this fleet and this device, in   TrustError
   a mode that this agent knows, and about
   what can be the name of a workload         UsageError
   (release 0 never serves)
3. its counter is above the last one seen of  ReplayError; the same document again is known, not an error
   this workload
4. it has not expired                         ExpiredError
"""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from skerry_edge.update.state import Stored
from skerry_shared import privacy, signing, wire
from skerry_shared.errors import ExpiredError, ReplayError, TrustError, UnfitError
from skerry_shared.identity import check_name
from skerry_shared.release import MODES, Assignment, Manifest, Signed


@dataclass(frozen=True)
class Device:
    """Who this device is and what it can run."""

    fleet: str
    name: str
    arch: str  # as `uname -m` says
    runtimes: tuple[str, ...]
    memory_bytes: int


@dataclass(frozen=True)
class Order:
    """An assignment that the director did sign for this device, and the document that says so."""

    assignment: Assignment
    document: bytes


class Floor:
    """The latest time of issue that the director signed, whatever for: a clock behind it is wrong."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._latest = clock, 0.0

    def raise_to(self, issued: float) -> None:
        """So late it is at least."""
        self._latest = max(self._latest, issued)

    def now(self) -> float:
        """Unix seconds."""
        return max(self._clock(), self._latest)


def authenticate(data: bytes, director: Ed25519PublicKey, device: Device) -> Order:
    """What a serialised Signed assignment orders. Raises TrustError, UsageError or InputError."""
    signed = wire.decode(Signed, data)
    assignment = signing.verify(Assignment, signed, director)
    if (assignment.fleet, assignment.device) != (device.fleet, device.name):
        raise TrustError(f"assignment: for {assignment.device!r} in {assignment.fleet!r}, this is {device.name!r}")
    if assignment.mode not in MODES:
        raise TrustError(f"assignment: mode {assignment.mode!r} is unknown; update this agent first")
    if (assignment.release == 0) != (assignment.measure or assignment.drop):
        raise TrustError(f"assignment: release {assignment.release} cannot be for mode {assignment.mode!r}")
    check_name("workload", assignment.workload)
    return Order(assignment, signed.document)


def accept(order: Order, stored: Stored, now: float) -> Stored | None:
    """What to store for an order; None if it is known already. Raises TrustError."""
    assignment = order.assignment
    if order.document == stored.document:
        return None
    if assignment.counter <= stored.counter:
        raise ReplayError(
            f"assignment: counter {assignment.counter} of {assignment.workload} is not above {stored.counter}"
        )
    floor = max(stored.floor, assignment.issued)
    check_expiry(assignment, max(now, floor))
    return Stored(assignment.counter, floor, order.document)


def check_expiry(assignment: Assignment, now: float) -> None:
    """Raises ExpiredError once the assignment may not be begun any more."""
    if now >= assignment.expires:
        raise ExpiredError(f"assignment: expired {now - assignment.expires:.0f} s ago")


def check_manifest(assignment: Assignment, manifest: Manifest) -> None:
    """Raises TrustError unless the bundle is the release and the target that were assigned, UnfitError if its policy
    for personal data is none for its input."""
    assigned = (assignment.workload, assignment.release, assignment.target)
    if (manifest.workload, manifest.release, manifest.target) != assigned:
        raise TrustError(f"bundle: is {manifest.workload} {manifest.release}, not what was assigned")
    if why := privacy.fault(manifest.fields, manifest.inputs[0]):
        raise UnfitError(f"bundle: policy: {why}; update this agent, or release a policy that fits")
