"""The steps of an update. Each does what can be done now and says how it ended, or how long there is to wait.

Each is taken again from its beginning after a restart, so each may be interrupted at any instruction. Those that fail
raise TrustError, UnfitError or ModelError.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_edge.update import plan
from skerry_edge.update.probe import probe
from skerry_edge.update.prove import Verdict, judge, top_label
from skerry_edge.update.stage import Stage
from skerry_edge.update.world import Live, Wait
from skerry_shared import bundle
from skerry_shared.errors import ExpiredError, LinkError, ModelError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import Assignment
from skerry_shared.states import Update, UpdateEvent

log = logging.getLogger(__name__)

RETRY_S = 30.0  # between attempts to fetch; an assignment lasts days

Step = Callable[[Stage, Assignment], Verdict | Wait]


def fit(stage: Stage, assignment: Assignment) -> Verdict:
    """ASSIGNED: is it for this kind of device, or is the workload to go?"""
    if assignment.drop:
        return Verdict(UpdateEvent.REMOVED, "taken off by the director")
    device, target = stage.world.device, assignment.target
    target.check(device.arch, device.runtimes, device.memory_bytes)
    if not assignment.shadow:
        stage.slots.forget_predecessor_of(assignment.sha256)
    return Verdict(UpdateEvent.FIT, f"fits {target.profile}")


def fetch(stage: Stage, assignment: Assignment) -> Verdict | Wait:
    """FETCHING: fetch and verify the bundle, unpack it into the spare slot."""
    if stage.slots.holding(assignment.sha256):
        return Verdict(UpdateEvent.VERIFIED, "already in a slot")
    plan.check_expiry(assignment, stage.world.floor.now())
    try:
        data = stage.world.repository.fetch(assignment.path, assignment.sha256, assignment.length)
        stage.slots.fill(data, assignment.sha256)
    except (LinkError, ExpiredError, OSError) as error:
        # a link, a stale timestamp and a full disk may pass; the assignment's own expiry ends it
        log.warning("fetching %s: %s; trying again", assignment.path, error)
        return Wait(RETRY_S)
    return Verdict(UpdateEvent.VERIFIED, f"{assignment.length} bytes")


def try_out(stage: Stage, assignment: Assignment) -> Verdict:
    """PROBING: does it answer the golden inputs on this device, and is there memory for it?"""
    unpacked = bundle.load(stage.slots.path(stage.slot_of(assignment)))
    plan.check_manifest(assignment, unpacked.manifest)
    candidate = stage.world.load(unpacked)
    worst = probe(candidate.model, unpacked)
    stage.admit(candidate, assignment)
    event = UpdateEvent.BESIDE if assignment.shadow else UpdateEvent.PASSED
    return Verdict(event, f"golden outputs within {worst:.2g}")


def shadow(stage: Stage, assignment: Assignment) -> Verdict | Wait:
    """SHADOWING: answer live inputs beside what serves, report, and never switch."""
    champion, wanted, comparison = stage.serving, stage.world.shadow, stage.evidence.comparison
    if champion is None:
        raise ModelError(f"no model of {assignment.workload} serves here that it could be compared with")
    stage.load_assigned(assignment)
    if comparison.compared >= wanted.answers:
        stage.world.compared(_report(stage, assignment, champion))
        return Verdict(UpdateEvent.COMPARED, comparison.summary())
    left = wanted.seconds - stage.passed_s
    if left <= 0:
        found = f"{comparison.compared} of {wanted.answers}"
        raise ModelError(f"only {found} live answers could be compared within {wanted.seconds:.0f} s")
    return Wait(left)


def prove(stage: Stage, assignment: Assignment) -> Verdict | Wait:
    """PROVING: switch to it, and compare it with its predecessor on live inputs."""
    objection = stage.call_witness(stage.switch(assignment))
    if objection:
        return Verdict(UpdateEvent.PROVEN, f"golden inputs; {objection}")
    health, passed = stage.world.health, stage.passed_s
    left, patience = health.proving_s - passed, health.labels_s - passed
    verdict = judge(stage.evidence.proof, health, passed, left)
    return verdict or Wait(min(left, patience) if patience > 0 else left)


STEPS: dict[Update, Step] = {
    Update.ASSIGNED: fit,
    Update.FETCHING: fetch,
    Update.PROBING: try_out,
    Update.SHADOWING: shadow,
    Update.PROVING: prove,
}


def answer_beside(stage: Stage, inputs: Tensors) -> None:
    """Let the candidate in the shadow answer live inputs (a batch of one) too."""
    if stage.serving and stage.candidate:
        stage.evidence.comparison.ask(stage.serving, stage.candidate, inputs, stage.world.timer)


def answer_again(stage: Stage, prediction_id: str, inputs: Tensors, scores: NDArray[np.floating]) -> None:
    """Let the predecessor answer live inputs (a batch of one) that what is being proven gave these scores for."""
    if not (stage.serving and stage.predecessor):
        return
    try:
        before = np.asarray(stage.predecessor.model.run(inputs)["scores"][0])
    except ModelError as error:  # the input's form may have changed with the release; then nothing can be compared
        log.warning("predecessor cannot answer: %s", error)
        return
    tops = top_label(scores, stage.serving.labels), top_label(before, stage.predecessor.labels)
    stage.evidence.proof.add(prediction_id, *tops)


def _report(stage: Stage, assignment: Assignment, champion: Live) -> dict[str, Any]:
    now = stage.world.clock()
    about = {"workload": assignment.workload, "release": assignment.release, "champion": champion.release}
    times = {"rollout": assignment.rollout, "start": now - stage.passed_s, "end": now}
    return about | times | stage.evidence.comparison.row()
