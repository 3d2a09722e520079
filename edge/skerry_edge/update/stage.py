"""The models of one workload that are in memory, and the slots that they come from.

*Serving* answers, a *candidate* wants to, the *predecessor* answered before and stays warm while there may be a way
back. ``evidence`` is what live answers told about them since the last change of state.
"""

from dataclasses import dataclass, field

from skerry_edge.update.probe import probe
from skerry_edge.update.prove import Proof
from skerry_edge.update.shadow import Comparison
from skerry_edge.update.slots import Pointer, Slots
from skerry_edge.update.world import Live, World
from skerry_shared import bundle
from skerry_shared.errors import ModelError
from skerry_shared.release import Assignment


@dataclass
class Evidence:
    """What live answers tell."""

    since: float  # by the world's timer
    proof: Proof = field(default_factory=Proof)
    comparison: Comparison = field(default_factory=Comparison)


class Stage:
    """One workload's. Not thread-safe."""

    def __init__(self, world: World, slots: Slots) -> None:
        self.world, self.slots = world, slots
        self.serving: Live | None = None
        self.candidate: Live | None = None
        self.predecessor: Live | None = None
        self.evidence = Evidence(world.timer())

    @property
    def passed_s(self) -> float:
        """Seconds since the last change of state."""
        return self.world.timer() - self.evidence.since

    def admit(self, candidate: Live, assignment: Assignment) -> Live:
        """There is a candidate now. Raises UnfitError if there is no memory for it."""
        beside = self.serving.memory_mb if self.serving and assignment.shadow else 0.0  # else it takes its place
        self.world.memory.admit(self.world.workload, candidate.memory_mb + beside)
        self.candidate = candidate
        return candidate

    def load_assigned(self, assignment: Assignment) -> Live:
        """Load the bundle that was assigned from its slot, once. Raises ModelError or UnfitError."""
        return self.candidate or self.admit(self._load(self.slot_of(assignment)), assignment)

    def slot_of(self, assignment: Assignment) -> str:
        """The slot that holds the bundle. Raises ModelError if it is gone."""
        slot = self.slots.holding(assignment.sha256)
        if slot is None:
            raise ModelError("the slot lost its bundle")
        return slot

    def switch(self, assignment: Assignment) -> Pointer:
        """Let what was assigned serve, if it does not yet. The pointer then."""
        active = self.slots.active()
        if active and active.sha256 == assignment.sha256:
            return active
        candidate, self.predecessor = self.load_assigned(assignment), self.serving
        slot = self.slot_of(assignment)
        active = self.slots.switch(slot, assignment.workload, assignment.release, assignment.sha256)
        self._serve(candidate)
        return active

    def call_witness(self, active: Pointer) -> str:
        """Load the predecessor, if it has anything to say about what serves; else say why it has not."""
        previous = active.previous
        if previous is None:
            return "there is no predecessor to compare with"
        if previous.release > active.release:  # the director's own undo must not be judged by what it undoes
            return f"goes back from release {previous.release}"
        try:
            self.predecessor = self._warm(previous) or self._load(previous.slot)
        except ModelError as error:  # no fault of the candidate
            return f"its predecessor cannot be loaded: {error}"
        return ""

    def serve_active(self) -> None:
        """Let what the pointer names answer; nothing, if it names nothing. Raises ModelError."""
        active = self.slots.active()
        self._serve((self._warm(active) or self._load(active.slot)) if active else None)

    def clear(self) -> None:
        """Nothing answers, and nothing is left in the slots."""
        self.slots.clear()
        self._serve(None)

    def rest(self) -> None:
        """What serves is all that is needed."""
        self.candidate = self.predecessor = None
        self.world.memory.note(self.world.workload, self.serving.memory_mb if self.serving else 0.0)

    def _warm(self, pointer: Pointer) -> Live | None:
        """The predecessor, if it is what the pointer names: an undo should not wait."""
        return self.predecessor if self.predecessor and self.predecessor.release == pointer.release else None

    def _load(self, slot: str) -> Live:
        live = self.world.load(bundle.load(self.slots.path(slot)))
        probe(live.model, live.bundle)
        return live

    def _serve(self, live: Live | None) -> None:
        self.serving = live
        self.world.serve(live)
