"""An update, from the director's word to a model that proved itself. One thread drives it; see ``worker``.

    ASSIGNED   is it for this kind of device?
    FETCHING   fetch and verify the bundle, unpack it into the spare slot
    PROBING    does it answer the golden inputs on this device?
    SHADOWING  if that was asked for: answer live inputs beside what serves, report, and never switch
    PROVING    switch to it; compare it with its predecessor on live inputs; put the predecessor back if it fails
    HEALTHY    nothing more to do, unless it crashes or a complaint comes: then the predecessor is put back as well

Each step is taken again from its beginning after a restart, so each may be interrupted at any instruction. The new
state is durable before it is acted upon, and reported after that, at least once. What a state means for the pointer is
restored at start: PROVING serves the candidate, UNDONE and REPLACED do not.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from skerry_edge.update import plan
from skerry_edge.update.probe import probe
from skerry_edge.update.prove import Bounds, Proof, Verdict, judge, top_label
from skerry_edge.update.shadow import Comparison
from skerry_edge.update.shadow import Settings as ShadowSettings
from skerry_edge.update.slots import Pointer, Slots
from skerry_edge.update.state import StateFile, Stored
from skerry_shared import bundle
from skerry_shared.bundle import Bundle
from skerry_shared.errors import ExpiredError, LinkError, ModelError, SkerryError, TrustError, UnfitError
from skerry_shared.ports.runtime import Model, Tensors
from skerry_shared.states import UNDER_WAY, UPDATE, Update, UpdateEvent, step

log = logging.getLogger(__name__)

RETRY_S = 30.0  # between attempts to fetch; an assignment lasts days
MAX_STARTS = 3  # of the agent under one model, without an end in order, before the model is blamed for them


class Repository(Protocol):
    """Where verified bundles come from."""

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        """The bundle. Raises LinkError, ExpiredError or another TrustError."""
        ...


class Settings(Bounds, Protocol):
    """When a new model counts as healthy; see ``config.Health``."""

    @property
    def proving_s(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Transition:
    """One change of state, to be reported."""

    time: float  # Unix seconds
    before: str  # a value of states.Update; empty at the beginning
    after: str
    reason: str
    workload: str = ""
    release: int = 0
    rollout: int = 0


@dataclass(frozen=True)
class Live:
    """A loaded bundle."""

    bundle: Bundle
    model: Model

    @property
    def release(self) -> int:
        """Its release."""
        return self.bundle.manifest.release

    @property
    def labels(self) -> tuple[str, ...]:
        """Class labels in the order of its scores."""
        return self.bundle.manifest.labels


@dataclass(frozen=True)
class World:
    """All that the flow acts upon."""

    device: plan.Device
    director: Ed25519PublicKey
    repository: Repository
    load: Callable[[Bundle], Model]  # by the runtime that the manifest names; raises ModelError
    serve: Callable[[Live | None], None]  # from now on this one answers; None: nothing does
    report: Callable[[Transition], None]
    clock: Callable[[], float]  # Unix seconds
    timer: Callable[[], float]  # seconds; unlike the clock never set
    health: Settings
    shadow: ShadowSettings
    compared: Callable[[dict[str, Any]], None]  # a row of telemetry table "shadow", to be kept durably


@dataclass(frozen=True)
class Wait:
    """Nothing to do for so many seconds, unless there is news."""

    seconds: float


class UpdateFlow:
    """Takes in assignments one at a time. Not thread-safe."""

    def __init__(self, world: World, slots: Slots, file: StateFile) -> None:
        self._world, self._slots, self._file = world, slots, file
        self._stored = file.load()
        self._candidate: Live | None = None
        self._predecessor: Live | None = None
        self._serving: Live | None = None
        self._proof, self._comparison, self._since = Proof(), Comparison(), world.timer()
        self._last_refusal = self._last_complaint = ""
        self._steps: dict[Update | None, Callable[[], Verdict | Wait]] = {
            Update.ASSIGNED: self._fit,
            Update.FETCHING: self._fetch,
            Update.PROBING: self._probe,
            Update.SHADOWING: self._shadow,
            Update.PROVING: self._prove,
        }

    @property
    def proving(self) -> bool:
        """Are samples of live answers wanted?"""
        return self._stored.state is Update.PROVING

    @property
    def shadowing(self) -> bool:
        """Are samples of live answers wanted for a candidate that serves nobody?"""
        return self._stored.state is Update.SHADOWING

    def start(self) -> None:
        """Restore after a restart: report what was not reported, make pointer and state agree, serve."""
        self._tell()
        if self._stored.state in (Update.PROBING, Update.SHADOWING, Update.PROVING, Update.HEALTHY):
            self._save(replace(self._stored, starts=self._stored.starts + 1))
            self._guard_starts()
        if self._stored.state in (Update.UNDONE, Update.REPLACED):
            self._put_back()
        self._serve_active()

    def receive(self, data: bytes) -> None:
        """Take in a serialised Signed assignment. One that cannot be trusted is reported and changes nothing."""
        try:
            accepted = plan.accept(data, self._world.director, self._world.device, self._stored, self._world.clock())
        except SkerryError as error:
            self._refuse_at_the_door(str(error))
            return
        if accepted:
            self._supersede()
            self._save(replace(accepted, state=Update.ASSIGNED, time=self._world.clock(), told=False))
            self._tell()

    def advance(self) -> float | None:
        """Do all that can be done now. Seconds until it should be called again; None: only news can change anything."""
        while act := self._steps.get(self._stored.state):
            outcome = self._attempt(act)
            if isinstance(outcome, Wait):
                return outcome.seconds
            self._change(outcome)
        return None

    def compare(self, release: int, prediction_id: str, inputs: Tensors, scores: NDArray[np.floating]) -> None:
        """A live answer of what serves: its inputs (a batch of one) and its scores."""
        if self.shadowing:
            self._answer_beside(release, inputs)
        if not self.proving or not self._predecessor or not self._serving or release != self._serving.release:
            return
        try:
            before = np.asarray(self._predecessor.model.run(inputs)["scores"][0])
        except ModelError as error:  # the input's form may have changed with the release; then nothing can be compared
            log.warning("predecessor cannot answer: %s", error)
            return
        labels = self._serving.labels, self._predecessor.labels
        self._proof.add(prediction_id, top_label(scores, labels[0]), top_label(before, labels[1]))

    def learn(self, prediction_id: str, label: str) -> None:
        """The late truth of a prediction."""
        if self.proving:
            self._proof.truth(prediction_id, label)

    def failed(self, release: int) -> None:
        """The candidate could not answer a live request."""
        if self.proving and release == self._stored.assignment.release:
            self._proof.fail()

    def complain(self, release: int, reason: str) -> None:
        """The model that serves does not do its job: put its predecessor back, or say why that cannot be."""
        active = self._slots.active()
        if active is None or active.release != release or not self._serves(active):
            return
        if self.proving:
            self._change(Verdict(UpdateEvent.DISPROVEN, reason))
        elif self._stored.state is Update.HEALTHY:
            self._regress(active, reason)

    def recheck(self) -> None:
        """Let the model that serves answer its golden inputs once more; one that fails gives way."""
        live = self._serving
        if live is None:
            return
        try:
            probe(live.model, live.bundle)
        except ModelError as error:
            self.complain(live.release, str(error))

    def settle(self) -> None:
        """The agent ran for long enough, or ended in order: its starts so far are no crashes of the model."""
        if self._stored.state in (Update.SHADOWING, Update.HEALTHY) and self._stored.starts:
            self._save(replace(self._stored, starts=0))

    def _regress(self, active: Pointer, reason: str) -> None:
        objection = self._call_witness(active)
        if not objection:
            self._change(Verdict(UpdateEvent.REGRESSED, reason))
        elif reason != self._last_complaint:  # it may be raised every second; one report is enough
            self._last_complaint = reason
            stored, about = self._stored, (active.workload, active.release, self._stored.assignment.rollout)
            state, why = stored.state, f"{reason}; it stays, for {objection}"
            assert state
            self._world.report(Transition(self._world.clock(), state.value, state.value, why, *about))

    def _fit(self) -> Verdict:
        device, target = self._world.device, self._stored.assignment.target
        target.check(device.arch, device.runtimes, device.memory_bytes)
        if not self._stored.assignment.shadow:
            self._slots.forget_predecessor_of(self._stored.assignment.sha256)
        return Verdict(UpdateEvent.FIT, f"fits {target.profile}")

    def _fetch(self) -> Verdict | Wait:
        assignment = self._stored.assignment
        if self._slots.holding(assignment.sha256):
            return Verdict(UpdateEvent.VERIFIED, "already in a slot")
        plan.check_expiry(assignment, self._now())
        try:
            data = self._world.repository.fetch(assignment.path, assignment.sha256, assignment.length)
            self._slots.fill(data, assignment.sha256)
        except (LinkError, ExpiredError, OSError) as error:
            # a link, a stale timestamp and a full disk may pass; the assignment's own expiry ends it
            log.warning("fetching %s: %s; trying again", assignment.path, error)
            return Wait(RETRY_S)
        return Verdict(UpdateEvent.VERIFIED, f"{assignment.length} bytes")

    def _probe(self) -> Verdict:
        assignment = self._stored.assignment
        slot = self._slots.holding(assignment.sha256)
        if slot is None:
            raise ModelError("the slot lost its bundle")
        unpacked = bundle.load(self._slots.path(slot))
        plan.check_manifest(assignment, unpacked.manifest)
        self._candidate = Live(unpacked, self._world.load(unpacked))
        worst = probe(self._candidate.model, unpacked)
        event = UpdateEvent.BESIDE if assignment.shadow else UpdateEvent.PASSED
        return Verdict(event, f"golden outputs within {worst:.2g}")

    def _shadow(self) -> Verdict | Wait:
        assignment, champion, wanted = self._stored.assignment, self._serving, self._world.shadow
        if champion is None or champion.bundle.manifest.workload != assignment.workload:
            raise ModelError(f"no model of {assignment.workload} serves here that it could be compared with")
        slot = self._slots.holding(assignment.sha256)
        if slot is None:
            raise ModelError("the slot lost its bundle")
        self._candidate = self._candidate or self._load(slot)
        if self._comparison.compared >= wanted.answers:
            self._world.compared(self._report_on(champion))
            return Verdict(UpdateEvent.COMPARED, self._comparison.summary())
        left = wanted.seconds - (self._world.timer() - self._since)
        if left <= 0:
            found = f"{self._comparison.compared} of {wanted.answers}"
            raise ModelError(f"only {found} live answers could be compared within {wanted.seconds:.0f} s")
        return Wait(left)

    def _answer_beside(self, release: int, inputs: Tensors) -> None:
        champion, candidate = self._serving, self._candidate
        if champion and candidate and champion.release == release:
            self._comparison.ask(champion, candidate, inputs, self._world.timer)

    def _report_on(self, champion: Live) -> dict[str, Any]:
        assignment, now = self._stored.assignment, self._world.clock()
        about = {"workload": assignment.workload, "release": assignment.release, "champion": champion.release}
        times = {"rollout": assignment.rollout, "start": self._stored.time, "end": now}
        return about | times | self._comparison.row()

    def _prove(self) -> Verdict | Wait:
        objection = self._call_witness(self._switched())
        if objection:
            return Verdict(UpdateEvent.PROVEN, f"golden inputs; {objection}")
        health, passed = self._world.health, self._world.timer() - self._since
        left, patience = health.proving_s - passed, health.labels_s - passed
        return judge(self._proof, health, passed, left) or Wait(min(left, patience) if patience > 0 else left)

    def _call_witness(self, active: Pointer) -> str:
        """Load the predecessor, if it has anything to say about the candidate; else say why it has not."""
        previous = active.previous
        if previous is None:
            return "there is no predecessor to compare with"
        if previous.workload != active.workload:
            return f"its predecessor is another workload, {previous.workload}"
        if previous.release > active.release:  # the director's own undo must not be judged by what it undoes
            return f"goes back from release {previous.release}"
        try:
            if not (self._predecessor and _is(self._predecessor, previous)):
                self._predecessor = self._load(previous.slot)
        except ModelError as error:  # no fault of the candidate
            return f"its predecessor cannot be loaded: {error}"
        return ""

    def _attempt(self, act: Callable[[], Verdict | Wait]) -> Verdict | Wait:
        try:
            return act()
        except (TrustError, UnfitError, ModelError) as error:
            event = UpdateEvent.DISPROVEN if self.proving else UpdateEvent.REJECTED
            return Verdict(event, str(error))

    def _change(self, verdict: Verdict) -> None:
        """Store the new state, then act on it where it is final, then report it."""
        stored = self._stored
        if stored.state is None:
            raise ValueError("no update to change")
        after = step(UPDATE, stored.state, verdict.event)
        now, reason = self._world.clock(), verdict.reason
        starts = stored.starts if after in UNDER_WAY else 0
        self._save(
            replace(stored, state=after, before=stored.state, time=now, reason=reason, told=False, starts=starts)
        )
        self._proof, self._comparison, self._since = Proof(), Comparison(), self._world.timer()
        if after in (Update.UNDONE, Update.REPLACED) and self._put_back():
            self._serve_active()
        if after not in UNDER_WAY:
            self._candidate = self._predecessor = None
        self._tell()

    def _switched(self) -> Pointer:
        """The pointer, moved to the candidate if it was not yet."""
        assignment, active = self._stored.assignment, self._slots.active()
        if active and active.sha256 == assignment.sha256:
            return active
        slot = self._slots.holding(assignment.sha256)
        if slot is None:
            raise ModelError("the slot lost its bundle")
        candidate, self._predecessor = self._candidate or self._load(slot), self._serving  # which stays warm
        active = self._slots.switch(slot, assignment.workload, assignment.release, assignment.sha256)
        self._serve(candidate)
        return active

    def _supersede(self) -> None:
        if self._stored.state in UNDER_WAY:
            self._change(Verdict(UpdateEvent.SUPERSEDED, "a newer assignment came"))

    def _put_back(self) -> bool:
        """Undo the switch if this update made it; what is not proven gives way. False if there was nothing to undo."""
        if self._stored.before not in (Update.PROVING, Update.HEALTHY) or not self._serves(self._slots.active()):
            return False
        self._slots.undo()
        return True

    def _serves(self, active: Pointer | None) -> bool:
        return active is not None and active.sha256 == self._stored.assignment.sha256

    def _guard_starts(self) -> None:
        if self._stored.starts <= MAX_STARTS:
            return
        reason = f"the agent was restarted {self._stored.starts} times meanwhile"
        if self._stored.state is Update.HEALTHY:
            self.complain(self._stored.assignment.release, reason)
        else:
            self._change(Verdict(UpdateEvent.DISPROVEN if self.proving else UpdateEvent.REJECTED, reason))

    def _serve_active(self) -> None:
        """Serve what the pointer names; where that fails its predecessor, and where there is none nothing."""
        active = self._slots.active()
        if active is None:
            self._serve(None)
            return
        if self._predecessor and _is(self._predecessor, active):
            self._serve(self._predecessor)
            return
        try:
            self._serve(self._warm(active) or self._load(active.slot))
        except ModelError as error:
            log.error("release %d cannot serve: %s", active.release, error)
            blamed = {Update.PROVING: UpdateEvent.DISPROVEN, Update.HEALTHY: UpdateEvent.REGRESSED}
            event = blamed.get(self._stored.state) if self._stored.state else None
            if event and self._serves(active):
                self._change(Verdict(event, str(error)))
            else:
                self._slots.undo()
                self._serve_active()

    def _warm(self, active: Pointer) -> Live | None:
        """The predecessor, if it is what serves now and was kept loaded: an undo should not wait."""
        live = self._predecessor
        is_it = live and (live.bundle.manifest.workload, live.release) == (active.workload, active.release)
        return live if is_it else None

    def _serve(self, live: Live | None) -> None:
        self._serving = live
        self._world.serve(live)

    def _load(self, slot: str) -> Live:
        """Load what lies in ``slot``, and try it on its golden inputs. Raises ModelError."""
        unpacked = bundle.load(self._slots.path(slot))
        live = Live(unpacked, self._world.load(unpacked))
        probe(live.model, unpacked)
        return live

    def _refuse_at_the_door(self, reason: str) -> None:
        if reason != self._last_refusal:  # a sender may repeat itself; one report is enough
            self._last_refusal = reason
            self._world.report(Transition(self._world.clock(), "", Update.REFUSED.value, reason))

    def _tell(self) -> None:
        stored = self._stored
        if stored.told or stored.state is None:
            return
        before, assignment = stored.before.value if stored.before else "", stored.assignment
        about = (assignment.workload, assignment.release, assignment.rollout)
        self._world.report(Transition(stored.time, before, stored.state.value, stored.reason, *about))
        self._save(replace(stored, told=True))

    def _save(self, stored: Stored) -> None:
        self._file.save(stored)
        self._stored = stored

    def _now(self) -> float:
        return max(self._world.clock(), self._stored.floor)


def _is(live: Live, pointer: Pointer) -> bool:
    return (live.bundle.manifest.workload, live.release) == (pointer.workload, pointer.release)
