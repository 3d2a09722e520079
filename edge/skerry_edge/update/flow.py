"""The updates of one workload, from the director's word to a model that proved itself. One thread drives it; see
``worker``.

    ASSIGNED   is it for this kind of device?
    FETCHING   fetch and verify the bundle, unpack it into the spare slot
    PROBING    does it answer the golden inputs on this device?
    SHADOWING  if that was asked for: answer live inputs beside what serves, report, and never switch
    PROVING    switch to it; compare it with its predecessor on live inputs; put the predecessor back if it fails
    HEALTHY    nothing more to do, unless it crashes or a complaint comes: then the predecessor is put back as well
    DROPPED    if the assignment said so: nothing of the workload serves or is kept, but the last counter

``steps`` has what is done in each. The new state is durable before it is acted upon, and reported after that, at least
once. What a state means for the pointer is restored at start: PROVING serves the candidate, UNDONE and REPLACED do not,
DROPPED has none.
"""

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skerry_edge.update import plan, steps
from skerry_edge.update.plan import Order
from skerry_edge.update.probe import probe
from skerry_edge.update.prove import Verdict
from skerry_edge.update.slots import Pointer, Slots
from skerry_edge.update.stage import Evidence, Stage
from skerry_edge.update.state import StateFile, Stored
from skerry_edge.update.steps import Step
from skerry_edge.update.world import Door, Transition, Wait, World
from skerry_shared.errors import ModelError, SkerryError, TrustError, UnfitError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.states import UNDER_WAY, UPDATE, Update, UpdateEvent, step

log = logging.getLogger(__name__)

ON_TRIAL = (Update.PROBING, Update.SHADOWING, Update.PROVING, Update.HEALTHY)  # what a crash may be the fault of
BLAMED = {Update.PROVING: UpdateEvent.DISPROVEN, Update.HEALTHY: UpdateEvent.REGRESSED}


class UpdateFlow:
    """Takes in a workload's assignments one at a time. Not thread-safe."""

    def __init__(self, world: World, slots: Slots, file: StateFile) -> None:
        """Reads what is stored; ``start`` acts on it."""
        self._world, self._file, self._stored = world, file, file.load()
        self._stage, self._slots = Stage(world, slots), slots
        self._door, self._last_complaint, self._accused = Door(world.report, world.clock), "", False
        world.floor.raise_to(self._stored.floor)

    @property
    def proving(self) -> bool:
        """Are samples of live answers wanted?"""
        return self._stored.state is Update.PROVING

    @property
    def shadowing(self) -> bool:
        """Are samples of live answers wanted for a candidate that serves nobody?"""
        return self._stored.state is Update.SHADOWING

    @property
    def under_way(self) -> bool:
        """Is there an update that is not decided yet?"""
        return self._stored.state in UNDER_WAY

    @property
    def starts(self) -> int:
        """Of the agent under what is on trial here, without an end in order."""
        return self._stored.starts

    @property
    def suspicion(self) -> tuple[bool, bool, float]:
        """The larger, the sooner are crashes its fault: what is under way, what can go back, what changed last."""
        active, stored = self._slots.active(), self._stored
        return stored.state in UNDER_WAY, bool(active and active.previous), stored.time

    def count_start(self) -> None:
        """The agent starts; that its last life ended in order, ``settle`` would have said."""
        if self._stored.state in ON_TRIAL:
            self._save(replace(self._stored, starts=self._stored.starts + 1))

    def accuse(self) -> None:
        """The agent's crashes are this model's fault; ``start`` acts on it."""
        self._accused = True

    def forgive(self) -> None:
        """The agent's starts so far are no crashes of this model."""
        if self._stored.starts:
            self._save(replace(self._stored, starts=0))

    def start(self) -> None:
        """Restore after a restart: report what was not reported, make pointer and state agree, serve."""
        self._tell()
        if self._accused:
            self._blame(f"the agent was restarted {self._stored.starts} times meanwhile")
        if self._stored.state in (Update.UNDONE, Update.REPLACED):
            self._put_back()
        if self._stored.state is Update.DROPPED:
            self._slots.clear()
        self._serve_active()
        self._stage.rest()

    def receive(self, order: Order) -> None:
        """Take in an order about this workload. One that does not count is reported and changes nothing."""
        try:
            accepted = plan.accept(order, self._stored, self._world.floor.now())
        except SkerryError as error:
            self._door.turn_away(str(error))
            return
        if accepted:
            self._world.floor.raise_to(accepted.floor)
            self._supersede()
            self._save(replace(accepted, state=Update.ASSIGNED, time=self._world.clock(), told=False))
            self._tell()

    def advance(self) -> float | None:
        """Do all that can be done now. Seconds until it should be called again; None: only news can change anything."""
        while act := steps.STEPS.get(self._stored.state) if self._stored.state else None:
            outcome = self._attempt(act)
            if isinstance(outcome, Wait):
                return outcome.seconds
            self._change(outcome)
        return None

    def compare(self, release: int, prediction_id: str, inputs: Tensors, scores: NDArray[np.floating]) -> None:
        """A live answer of what serves: its inputs (a batch of one) and its scores."""
        if self._stage.serving is None or self._stage.serving.release != release:
            return
        if self.shadowing:
            steps.answer_beside(self._stage, inputs)
        elif self.proving:
            steps.answer_again(self._stage, prediction_id, inputs, scores)

    def learn(self, prediction_id: str, label: str) -> None:
        """The late truth of a prediction."""
        if self.proving:
            self._stage.evidence.proof.truth(prediction_id, label)

    def failed(self, release: int) -> None:
        """The candidate could not answer a live request."""
        if self.proving and release == self._stored.assignment.release:
            self._stage.evidence.proof.fail()

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
        live = self._stage.serving
        if live is None:
            return
        try:
            probe(live.model, live.bundle)
        except ModelError as error:
            self.complain(live.release, str(error))

    def settle(self) -> None:
        """The agent ran for long enough, or ended in order: what is not on probation is no cause of crashes."""
        if self._stored.state in (Update.SHADOWING, Update.HEALTHY):
            self.forgive()

    def _regress(self, active: Pointer, reason: str) -> None:
        objection = self._stage.call_witness(active)
        if not objection:
            self._change(Verdict(UpdateEvent.REGRESSED, reason))
        elif reason != self._last_complaint:  # it may be raised every second; one report is enough
            self._last_complaint = reason
            self._report(Update.HEALTHY, Update.HEALTHY, f"{reason}; it stays, for {objection}", self._world.clock())

    def _attempt(self, act: Step) -> Verdict | Wait:
        try:
            return act(self._stage, self._stored.assignment)
        except (TrustError, UnfitError, ModelError) as error:
            return Verdict(self._refusal, str(error))

    @property
    def _refusal(self) -> UpdateEvent:
        return UpdateEvent.DISPROVEN if self.proving else UpdateEvent.REJECTED

    def _change(self, verdict: Verdict) -> None:
        """Store the new state, then act on it where it is final, then report it."""
        stored = self._stored
        if stored.state is None:
            raise ValueError("no update to change")
        after = step(UPDATE, stored.state, verdict.event)
        now, starts = self._world.clock(), stored.starts if after in UNDER_WAY else 0
        self._save(
            replace(
                stored, state=after, before=stored.state, time=now, reason=verdict.reason, told=False, starts=starts
            )
        )  # fmt: skip
        self._stage.evidence = Evidence(self._world.timer())
        if after in (Update.UNDONE, Update.REPLACED) and self._put_back():
            self._serve_active()
        if after is Update.DROPPED:
            self._stage.clear()
        if after not in UNDER_WAY:
            self._stage.rest()
        self._tell()

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

    def _blame(self, reason: str) -> None:
        if self._stored.state is Update.HEALTHY:
            self.complain(self._stored.assignment.release, reason)
        else:
            self._change(Verdict(self._refusal, reason))

    def _serve_active(self) -> None:
        """Serve what the pointer names; where that fails its predecessor, and where there is none nothing."""
        try:
            self._stage.serve_active()
        except ModelError as error:
            log.error("%s: what is installed cannot serve: %s", self._world.workload, error)
            event = BLAMED.get(self._stored.state) if self._stored.state else None
            if event and self._serves(self._slots.active()):
                self._change(Verdict(event, str(error)))
            else:
                self._slots.undo()
                self._serve_active()

    def _tell(self) -> None:
        stored = self._stored
        if stored.state and not stored.told:
            self._report(stored.before, stored.state, stored.reason, stored.time)
            self._save(replace(stored, told=True))

    def _report(self, before: Update | None, after: Update, reason: str, time: float) -> None:
        assignment = self._stored.assignment
        about = (assignment.workload, assignment.release, assignment.rollout)
        self._world.report(Transition(time, before.value if before else "", after.value, reason, *about))

    def _save(self, stored: Stored) -> None:
        self._file.save(stored)
        self._stored = stored
