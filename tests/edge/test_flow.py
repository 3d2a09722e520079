"""The update flow as stories, and then killed at every durable write: one whole model serves, always."""

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_edge.config import Health, Shadow
from skerry_edge.infer.models import load_model
from skerry_edge.update.flow import UpdateFlow
from skerry_edge.update.memory import Memory
from skerry_edge.update.plan import Device, Floor, authenticate
from skerry_edge.update.slots import Slots
from skerry_edge.update.state import StateFile
from skerry_edge.update.steps import RETRY_S
from skerry_edge.update.workloads import MAX_STARTS, count_starts
from skerry_edge.update.world import Live, Transition, World
from skerry_shared import bundle, files, telemetry
from skerry_shared.errors import DigestError, LinkError
from skerry_shared.release import Manifest, Target
from skerry_shared.states import Update

pytestmark = pytest.mark.arm64


Release = Callable[..., tuple[bytes, Manifest]]
Assign = Callable[..., bytes]
Pictures = Callable[..., np.ndarray[Any, Any]]


class Killed(BaseException):
    """The power is gone."""


@dataclass
class Shelf:
    """A repository of bundles by digest; what is not there is out of reach."""

    bundles: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> bytes:
        self.bundles[bundle.digest(data)] = data
        return data

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        if sha256 not in self.bundles:
            raise LinkError(f"{path}: out of reach")
        if bundle.digest(self.bundles[sha256]) != sha256:
            raise DigestError(f"{path}: tampered")
        return self.bundles[sha256]


class Island:
    """A device's disk, and the agents that live on it one after another."""

    def __init__(self, folder: Path, director: Ed25519PrivateKey, arch: str, workload: str = "tiny") -> None:
        self.slots, self.file, self.shelf = Slots(folder), StateFile(folder / "update"), Shelf()
        self.told: list[Transition] = []
        self.compared: list[dict[str, Any]] = []
        self.served: Live | None = None
        self.now, self.timer, self.needed_mb = 2000.0, 0.0, 10.0
        self.director = director.public_key()
        self.world = World(
            workload=workload,
            device=Device("harbour", "pump-7", arch, ("onnxruntime",), 1 << 30),
            repository=self.shelf,
            memory=Memory(100),
            floor=Floor(lambda: self.now),
            load=lambda unpacked: Live(unpacked, load_model(unpacked, 1), self.needed_mb),
            serve=self.serve,
            report=self.told.append,
            clock=lambda: self.now,
            timer=lambda: self.timer,
            health=Health(proving_answers=10, min_agreement=0.3, proving_s=60),
            shadow=Shadow(answers=10, seconds=600),
            compared=self.compared.append,
        )

    def serve(self, live: Live | None) -> None:
        self.served = live

    def boot(self) -> UpdateFlow:
        flow = UpdateFlow(self.world, self.slots, self.file)
        count_starts([flow])
        flow.start()
        return flow

    def give(self, flow: UpdateFlow, signed: bytes) -> None:
        flow.receive(authenticate(signed, self.director, self.world.device))

    @property
    def release(self) -> int | None:
        return self.served.bundle.manifest.release if self.served else None

    def answers(self, flow: UpdateFlow, inputs: np.ndarray[Any, Any]) -> None:
        """Live traffic, all of it sampled."""
        assert self.served
        for i in range(len(inputs)):
            example = {"image": inputs[i : i + 1]}
            scores: Any = self.served.model.run(example)["scores"]
            flow.compare(self.served.bundle.manifest.release, f"{self.timer}/{i}", example, scores[0])

    def states(self) -> list[str]:
        return [change.after for change in self.told]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power goes at the calls that make something durable, not within the kernel: there is nothing to wait for."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def island(tmp_path: Path, director: Ed25519PrivateKey) -> Island:
    return Island(tmp_path, director, os.uname().machine)


@pytest.fixture
def settled(island: Island, release: Release, assign: Assign) -> Island:
    """Release 1 is healthy."""
    data = island.shelf.add(release(1)[0])
    flow = island.boot()
    island.give(flow, assign(data, 1, 1))
    assert flow.advance() is None
    assert island.states() == ["assigned", "fetching", "probing", "proving", "healthy"]
    island.told.clear()
    return island


def test_the_first_release_is_healthy_on_golden_inputs_alone(settled: Island) -> None:
    assert settled.release == 1
    assert settled.file.load().reason == "golden inputs; there is no predecessor to compare with"


def test_a_release_that_agrees_with_its_predecessor_is_proven(
    settled: Island, release: Release, assign: Assign, pictures: Pictures, weights: np.ndarray[Any, Any]
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2, weights * 1.1)[0]), 2, 2))
    assert flow.advance() == 60
    assert (settled.release, flow.proving) == (2, True)
    settled.answers(flow, pictures(10, seed=1))
    assert flow.advance() is None
    assert settled.told[-1].after == "healthy"
    assert "10 of 10 live answers agree" in settled.told[-1].reason


def test_a_release_that_disagrees_is_undone(
    settled: Island, release: Release, assign: Assign, pictures: Pictures, weights: np.ndarray[Any, Any]
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2, -weights)[0]), 2, 2))
    flow.advance()
    settled.answers(flow, pictures(8, seed=1))
    assert flow.advance() is None
    assert (settled.told[-1].after, settled.release) == ("undone", 1)
    active = settled.slots.active()
    assert active and active.release == 1


def test_answers_that_fail_are_disagreement(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    for _ in range(8):
        flow.failed(2)
    flow.advance()
    assert settled.told[-1].after == "undone"


def test_without_traffic_the_deadline_decides(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    assert flow.advance() == 60
    settled.timer += 61
    assert flow.advance() is None
    assert settled.told[-1].after == "healthy"
    assert "golden inputs; only 0 of 0" in settled.told[-1].reason


def test_wrong_golden_answers_are_refused_and_not_tried_again(
    settled: Island, release: Release, assign: Assign
) -> None:
    flow = settled.boot()
    bad = assign(settled.shelf.add(release(2, spoil=0.5)[0]), 2, 2)
    settled.give(flow, bad)
    flow.advance()
    assert settled.told[-1].after == "refused"
    assert settled.told[-1].reason == "golden check: output 'scores' differs by 0.5, tolerance 0.0001"
    assert settled.release == 1
    settled.told.clear()
    again = settled.boot()
    settled.give(again, bad)
    assert again.advance() is None
    assert settled.told == []


def test_a_tampered_bundle_is_refused(settled: Island, release: Release, assign: Assign) -> None:
    data = release(2)[0]
    settled.shelf.bundles[bundle.digest(data)] = data + b"x"
    flow = settled.boot()
    settled.give(flow, assign(data, 2, 2))
    flow.advance()
    assert (settled.told[-1].after, settled.release) == ("refused", 1)
    assert "tampered" in settled.told[-1].reason


def test_another_release_in_the_bundle_is_refused(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(7)[0]), 2, 2))
    flow.advance()
    assert (settled.told[-1].after, settled.release) == ("refused", 1)


def test_a_bundle_for_another_kind_of_device_is_not_even_fetched(
    settled: Island, release: Release, assign: Assign
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(release(2)[0], 2, 2, target=Target("other", "mips", "onnxruntime", "int8")))
    flow.advance()
    assert settled.states() == ["assigned", "refused"]
    assert "bundle is for mips" in settled.told[-1].reason


def test_out_of_reach_waits_until_the_assignment_expires(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.give(flow, assign(release(2)[0], 2, 2))
    assert flow.advance() == RETRY_S
    settled.now = 200_000
    assert flow.advance() is None
    assert settled.states() == ["assigned", "fetching", "refused"]
    assert "expired" in settled.told[-1].reason


def test_a_newer_assignment_replaces_one_that_is_being_proven(
    settled: Island, release: Release, assign: Assign
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    settled.give(flow, assign(settled.shelf.add(release(3)[0]), 3, 3))
    assert settled.release == 1  # what is not proven gives way
    flow.advance()
    active = settled.slots.active()
    assert settled.release == 3
    assert active and active.previous and active.previous.release == 1
    assert settled.states()[3:6] == ["proving", "replaced", "assigned"]


def test_the_running_release_assigned_again_stays(settled: Island, release: Release, assign: Assign) -> None:
    data = next(iter(settled.shelf.bundles.values()))
    settled.shelf.bundles.clear()
    flow = settled.boot()
    settled.give(flow, assign(data, 1, 2))
    assert flow.advance() is None
    assert (settled.told[-1].after, settled.release) == ("healthy", 1)


def test_going_back_needs_no_network_and_is_not_judged_by_what_it_undoes(
    settled: Island, release: Release, assign: Assign
) -> None:
    first = next(iter(settled.shelf.bundles.values()))
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    settled.timer += 61
    flow.advance()
    settled.shelf.bundles.clear()
    settled.give(flow, assign(first, 1, 3))
    assert flow.advance() is None
    assert (settled.release, settled.told[-1].after) == (1, "healthy")
    assert "goes back from release 2" in settled.told[-1].reason


def test_a_release_that_keeps_killing_the_agent_is_undone(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    for _ in range(MAX_STARTS + 1):
        settled.boot()
    assert (settled.told[-1].after, settled.release) == ("undone", 1)
    assert "restarted 4 times" in settled.told[-1].reason


def test_a_model_damaged_on_disk_gives_way_to_its_predecessor(
    settled: Island, release: Release, assign: Assign
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    settled.timer += 61
    flow.advance()
    active = settled.slots.active()
    assert active and active.release == 2
    (settled.slots.path(active.slot) / "model.onnx").write_bytes(b"rot")
    settled.boot()
    assert settled.release == 1


def test_a_candidate_damaged_while_it_is_proven_is_undone(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    active = settled.slots.active()
    assert active and active.release == 2
    (settled.slots.path(active.slot) / "model.onnx").write_bytes(b"rot")
    settled.boot()
    assert (settled.told[-1].after, settled.release) == ("undone", 1)


def test_the_starting_agent_serves_the_candidate_that_it_was_proving(
    settled: Island, release: Release, assign: Assign, pictures: Pictures
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    again = settled.boot()
    assert (settled.release, again.advance()) == (2, 60)
    settled.answers(again, pictures(10, seed=1))
    again.advance()
    assert settled.told[-1].after == "healthy"


def update(island: Island, assignment: bytes, inputs: np.ndarray[Any, Any]) -> None:
    """A life of an agent that gets the assignment and traffic, until nothing more happens."""
    flow = island.boot()
    island.give(flow, assignment)
    while flow.advance() is not None:
        island.answers(flow, inputs)


@pytest.mark.parametrize(("flip", "ends"), [(1.0, "healthy"), (-1.0, "undone")])
def test_killed_before_and_after_every_durable_write(
    tmp_path: Path, director: Ed25519PrivateKey, release: Release, assign: Assign, pictures: Pictures,
    weights: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch, flip: float, ends: str,
) -> None:  # fmt: skip
    old, new = release(1)[0], release(2, weights * flip)[0]
    first, second, traffic = assign(old, 1, 1), assign(new, 2, 2), pictures(10, seed=1)
    for kill_at in itertools.count():
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        island = Island(folder, director, os.uname().machine)
        island.shelf.add(old)
        island.shelf.add(new)
        update(island, first, traffic)
        survived = _survives(monkeypatch, kill_at, partial(update, island, second, traffic))
        island.served = None
        island.boot()
        assert island.release in (1, 2)
        update(island, second, traffic)
        assert (island.file.load().state, island.release) == (Update(ends), 2 if ends == "healthy" else 1)
        assert island.states()[-1] == ends
        if survived:
            break
    assert kill_at > 20


def _survives(monkeypatch: pytest.MonkeyPatch, kill_at: int, act: Callable[[], None]) -> bool:
    """Run ``act``; before and after each call that makes something durable the power may go. False if it went."""
    instants = itertools.count()

    def deadly(function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            if next(instants) == kill_at:
                raise Killed
            function(*args, **kwargs)
            if next(instants) == kill_at:
                raise Killed

        return call

    with monkeypatch.context() as patch:
        for module in ("update.slots", "update.state"):
            patch.setattr(f"skerry_edge.{module}.write_durably", deadly(files.write_durably))
        patch.setattr("skerry_shared.bundle.write_durably", deadly(files.write_durably))
        patch.setattr("skerry_edge.update.slots.sync_folder", deadly(files.sync_folder))
        patch.setattr("skerry_edge.update.slots.shutil.rmtree", deadly(shutil.rmtree))
        try:
            act()
        except Killed:
            return False
    return True


@pytest.fixture
def second(settled: Island, release: Release, assign: Assign) -> Island:
    """Release 2 is healthy, release 1 its predecessor; nothing can be fetched any more."""
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    settled.timer += 61
    flow.advance()
    flow.settle()
    settled.shelf.bundles.clear()
    assert settled.told[-1].after == "healthy"
    settled.told.clear()
    return settled


def test_a_healthy_release_that_is_complained_about_gives_way_offline_and_for_good(second: Island) -> None:
    flow = second.boot()
    flow.complain(2, "too slow")
    assert second.release == 1
    assert [(c.before, c.after, c.reason, c.release) for c in second.told] == [("healthy", "undone", "too slow", 2)]
    flow.complain(2, "too slow")
    second.boot().complain(1, "also slow")
    assert (second.release, len(second.told)) == (1, 1)


def test_a_complaint_about_a_release_that_is_being_proven_undoes_it(
    settled: Island, release: Release, assign: Assign
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    flow.advance()
    flow.complain(1, "about another one")
    assert settled.release == 2
    flow.complain(2, "too slow")
    assert (settled.told[-1].before, settled.told[-1].after, settled.release) == ("proving", "undone", 1)


def test_without_a_predecessor_a_bad_model_stays_and_that_is_told_once(settled: Island) -> None:
    flow = settled.boot()
    for _ in range(3):
        flow.complain(1, "too slow")
    assert settled.release == 1
    reason = "too slow; it stays, for there is no predecessor to compare with"
    assert [(c.before, c.after, c.reason) for c in settled.told] == [("healthy", "healthy", reason)]


def test_what_the_director_took_back_is_never_put_back_by_a_complaint(second: Island, assign: Assign) -> None:
    flow = second.boot()
    active = second.slots.active()
    assert active and active.previous
    second.give(flow, assign(b"", 1, 3, sha256=active.previous.sha256, length=1))
    flow.advance()
    assert second.release == 1
    flow.complain(1, "too slow")
    assert second.release == 1
    assert "it stays, for goes back from release 2" in second.told[-1].reason


def test_a_healthy_release_that_keeps_killing_the_agent_gives_way(second: Island) -> None:
    for _ in range(MAX_STARTS):
        second.boot()
    assert second.release == 2
    second.boot()
    assert (second.release, second.told[-1].after) == (1, "undone")
    assert "restarted 4 times" in second.told[-1].reason


def test_starts_that_ended_in_order_are_no_crashes(second: Island) -> None:
    for _ in range(3 * MAX_STARTS):
        second.boot().settle()
    assert (second.release, second.told) == (2, [])


def test_a_healthy_release_that_fails_its_golden_inputs_later_gives_way(second: Island) -> None:
    flow = second.boot()
    flow.recheck()
    assert second.release == 2
    assert second.served
    scores: Any = second.served.bundle.golden.outputs["scores"]
    scores += np.float32(0.5)
    flow.recheck()
    assert (second.release, second.told[-1].after) == (1, "undone")
    assert "differs by 0.5" in second.told[-1].reason


def test_killed_at_every_durable_write_of_a_return(
    tmp_path: Path, director: Ed25519PrivateKey, release: Release, assign: Assign, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = release(1)[0], release(2)[0]
    for kill_at in itertools.count():
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        island = Island(folder, director, os.uname().machine)
        for number, data in enumerate((old, new), 1):
            flow = island.boot()
            island.give(flow, assign(island.shelf.add(data), number, number))
            flow.advance()
            island.timer += 61
            flow.advance()
        flow.settle()
        survived = _survives(monkeypatch, kill_at, partial(flow.complain, 2, "too slow"))
        again = island.boot()
        assert island.release in (1, 2)
        again.complain(2, "too slow")
        assert (island.file.load().state, island.release) == (Update.UNDONE, 1)
        assert island.states()[-1] == "undone"
        if survived:
            break
    assert kill_at > 4


def test_a_shadow_is_compared_and_reported_but_never_serves(
    settled: Island, release: Release, assign: Assign, pictures: Pictures, weights: np.ndarray[Any, Any]
) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2, -weights)[0]), 2, 2, mode="shadow"))
    assert flow.advance() == 600
    assert (flow.shadowing, flow.proving, settled.release) == (True, False, 1)
    settled.answers(flow, pictures(10, seed=1))
    assert flow.advance() is None
    assert settled.states() == ["assigned", "fetching", "probing", "shadowing", "shadowed"]
    (row,) = settled.compared
    assert row.keys() == telemetry.TABLES["shadow"].keys()
    assert (row["release"], row["champion"], row["compared"], row["failed"]) == (2, 1, 10, 0)
    assert row["agreed"] < 10 and 0 <= row["agreement_low"] < row["agreement_high"] < 1
    active = settled.slots.active()
    assert (settled.release, active and active.release) == (1, 1)


def test_a_shadow_without_traffic_is_refused(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(release(2)[0]), 2, 2, mode="shadow"))
    flow.advance()
    settled.timer += 601
    flow.advance()
    assert (settled.told[-1].after, settled.release) == ("refused", 1)
    assert "only 0 of 10 live answers could be compared within 600 s" in settled.told[-1].reason


def test_a_shadow_needs_something_that_serves(island: Island, release: Release, assign: Assign) -> None:
    flow = island.boot()
    island.give(flow, assign(island.shelf.add(release(1)[0]), 1, 1, mode="shadow"))
    flow.advance()
    assert (island.told[-1].after, island.release) == ("refused", None)
    assert "no model of tiny serves here" in island.told[-1].reason


def test_a_shadow_goes_on_after_a_restart_and_can_be_promoted_without_another_download(
    settled: Island, release: Release, assign: Assign, pictures: Pictures
) -> None:
    data = release(2)[0]
    flow = settled.boot()
    settled.give(flow, assign(settled.shelf.add(data), 2, 2, mode="shadow"))
    flow.advance()
    again = settled.boot()
    assert again.advance() == 600
    settled.answers(again, pictures(10, seed=1))
    again.advance()
    assert settled.compared[0]["agreed"] == 10
    settled.shelf.bundles.clear()
    settled.give(again, assign(data, 2, 3))
    again.advance()
    assert (settled.told[-1].after, settled.release) == ("proving", 2)


def test_dropped_at_every_durable_write_nothing_of_it_is_left_and_it_can_come_again(
    tmp_path: Path, director: Ed25519PrivateKey, release: Release, assign: Assign, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = release(1)[0]
    drop = assign(b"", 0, 2, mode="drop", rollout=0)
    for kill_at in itertools.count():
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        island = Island(folder, director, os.uname().machine)
        flow = island.boot()
        island.give(flow, assign(island.shelf.add(data), 1, 1))
        flow.advance()
        (folder / "engines").mkdir()
        survived = _survives(monkeypatch, kill_at, partial(take_in, island, flow, drop))
        again = island.boot()
        take_in(island, again, drop)
        assert (island.file.load().state, island.release, island.slots.active()) == (Update.DROPPED, None, None)
        assert [path.name for path in folder.iterdir()] == ["update"]
        assert island.states()[-1] == "dropped"
        island.give(again, assign(data, 1, 1))
        assert "counter 1 of tiny is not above 2" in island.told[-1].reason
        take_in(island, again, assign(data, 1, 3))
        assert (island.states()[-1], island.release) == ("healthy", 1)
        if survived:
            break
    assert kill_at > 8


def take_in(island: Island, flow: UpdateFlow, signed: bytes) -> None:
    island.give(flow, signed)
    flow.advance()


def test_a_drop_ends_an_update_under_way(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    take_in(settled, flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    take_in(settled, flow, assign(b"", 0, 3, mode="drop", rollout=0))
    assert (settled.states()[-4:], settled.release) == (["proving", "replaced", "assigned", "dropped"], None)


def test_what_needs_more_memory_than_there_is_is_refused_and_the_rest_serves_on(
    settled: Island, release: Release, assign: Assign
) -> None:
    flow = settled.boot()
    settled.world.memory.note("ear", 60)
    settled.needed_mb = 41
    take_in(settled, flow, assign(settled.shelf.add(release(2)[0]), 2, 2))
    assert (settled.told[-1].after, settled.release) == ("refused", 1)
    reason = "memory: needs 41 MB beside ear 60 MB; all models may take 100 MB (models_mb in agent.toml)"
    assert settled.told[-1].reason == reason
    settled.needed_mb = 40
    take_in(settled, flow, assign(settled.shelf.add(release(3)[0]), 3, 3))
    assert settled.release == 3


def test_a_shadow_needs_memory_beside_what_serves(settled: Island, release: Release, assign: Assign) -> None:
    flow = settled.boot()
    settled.world.memory.note("ear", 85)
    take_in(settled, flow, assign(settled.shelf.add(release(2)[0]), 2, 2, mode="shadow"))
    assert (settled.told[-1].after, settled.release) == ("refused", 1)
    assert "needs 20 MB beside ear 85 MB" in settled.told[-1].reason
    take_in(settled, flow, assign(settled.shelf.add(release(2)[0]), 2, 3))
    assert settled.release == 2


class Archipelago:
    """Two workloads of one device, and the agents that drive them, as ``Workloads`` does."""

    def __init__(self, folder: Path, director: Ed25519PrivateKey) -> None:
        self.islands = {name: self._island(folder / name, director) for name in ("ear", "tiny")}

    def _island(self, folder: Path, director: Ed25519PrivateKey) -> Island:
        folder.mkdir(parents=True, exist_ok=True)
        return Island(folder, director, os.uname().machine, folder.name)

    def boot(self) -> dict[str, UpdateFlow]:
        flows = {name: UpdateFlow(one.world, one.slots, one.file) for name, one in self.islands.items()}
        count_starts(list(flows.values()))
        for flow in flows.values():
            flow.start()
        return flows

    def install(self, release: Release, assign: Assign, number: int = 1) -> None:
        for name, flow in self.boot().items():
            island = self.islands[name]
            data = island.shelf.add(release(number, workload=name)[0])
            take_in(island, flow, assign(data, number, number, workload=name))
            island.timer += 61
            flow.advance()
            flow.settle()

    @property
    def releases(self) -> dict[str, int | None]:
        return {name: island.release for name, island in self.islands.items()}


def test_killed_at_every_durable_write_of_one_workload_the_other_serves(
    tmp_path: Path, director: Ed25519PrivateKey, release: Release, assign: Assign, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = release(2)[0]
    Archipelago(tmp_path / "settled", director).install(release, assign)
    for kill_at in itertools.count():
        shutil.copytree(tmp_path / "settled", tmp_path / str(kill_at))
        both = Archipelago(tmp_path / str(kill_at), director)
        tiny = both.islands["tiny"]
        signed = assign(tiny.shelf.add(new), 2, 2)
        ear = both.islands["ear"].file.load()
        survived = _survives(monkeypatch, kill_at, partial(take_in, tiny, both.boot()["tiny"], signed))
        for island in both.islands.values():
            island.served = None
        flows = both.boot()
        assert both.releases["ear"] == 1 and both.releases["tiny"] in (1, 2)
        assert replace(both.islands["ear"].file.load(), starts=0) == ear
        take_in(tiny, flows["tiny"], signed)
        assert both.releases == {"ear": 1, "tiny": 2}
        shutil.rmtree(tmp_path / str(kill_at))
        if survived:
            break
    assert kill_at > 20


def test_for_crashes_the_model_under_way_is_blamed_and_the_other_is_not(
    tmp_path: Path, director: Ed25519PrivateKey, release: Release, assign: Assign
) -> None:
    both = Archipelago(tmp_path / "d", director)
    both.install(release, assign)
    both.install(release, assign, 2)
    tiny = both.islands["tiny"]
    take_in(tiny, both.boot()["tiny"], assign(tiny.shelf.add(release(3)[0]), 3, 3))
    assert both.releases == {"ear": 2, "tiny": 3}
    for _ in range(2 * MAX_STARTS):
        both.boot()
    assert both.releases == {"ear": 2, "tiny": 2}
    assert "restarted 3 times" in tiny.told[-1].reason


def test_for_crashes_what_can_go_back_is_blamed_before_what_cannot(
    tmp_path: Path, director: Ed25519PrivateKey, release: Release, assign: Assign
) -> None:
    both = Archipelago(tmp_path / "d", director)
    both.install(release, assign)
    ear = both.islands["ear"]
    flow = both.boot()["ear"]
    take_in(ear, flow, assign(ear.shelf.add(release(2, workload="ear")[0]), 2, 2, workload="ear"))
    ear.timer += 61
    flow.advance()
    flow.settle()
    both.islands["tiny"].now = 9000.0  # changed last, but there is no way back
    for _ in range(MAX_STARTS + 1):
        both.boot()
    assert both.releases == {"ear": 1, "tiny": 1}
    assert [change.after for change in both.islands["tiny"].told][-1] == "healthy"
