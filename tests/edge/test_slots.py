from collections.abc import Callable
from pathlib import Path

import pytest

from skerry_edge.update import slots as module
from skerry_edge.update.slots import MARK, Pointer, Slots
from skerry_shared import bundle, files
from skerry_shared.errors import ModelError, StateError
from skerry_shared.release import Manifest

pytestmark = pytest.mark.arm64


Release = Callable[..., tuple[bytes, Manifest]]


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def install(slots: Slots, release: Release, number: int) -> str:
    data, digest = release(number)[0], bundle.digest(release(number)[0])
    slots.switch(slots.fill(data, digest), "tiny", number, digest)
    return digest


def test_switch_and_undo(slots: Slots, release: Release) -> None:
    first = install(slots, release, 1)
    second = install(slots, release, 2)
    assert slots.active() == Pointer("b", "tiny", 2, second, Pointer("a", "tiny", 1, first))
    slots.undo()
    assert slots.active() == Pointer("a", "tiny", 1, first)
    slots.undo()
    assert slots.active() is None


def test_the_serving_slot_is_never_filled(slots: Slots, release: Release) -> None:
    for number in range(1, 5):
        active = slots.active()
        data = release(number)[0]
        filled = slots.fill(data, bundle.digest(data))
        assert active is None or active.slot != filled
        slots.switch(filled, "tiny", number, bundle.digest(data))


def test_manifests_are_those_of_whole_bundles(slots: Slots, release: Release) -> None:
    install(slots, release, 1)
    install(slots, release, 2)
    assert [manifest.release for manifest in slots.manifests()] == [1, 2]
    (slots.path("a") / bundle.MANIFEST).write_bytes(b"rot")
    (slots.path("b") / MARK).unlink()
    assert slots.manifests() == []


def test_a_half_made_slot_holds_nothing(slots: Slots, release: Release) -> None:
    data = release()[0]
    with pytest.raises(ModelError):
        slots.fill(data[: len(data) // 2], bundle.digest(data))
    assert slots.holding(bundle.digest(data)) is None
    assert slots.fill(data, bundle.digest(data)) == slots.holding(bundle.digest(data)) == "a"


def test_the_order_of_durable_writes(
    slots: Slots, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(slots, release, 1)
    install(slots, release, 2)
    written: list[str] = []

    def note(path: Path, content: bytes, mode: int = 0o644) -> None:
        files.write_durably(path, content, mode)
        written.append(path.relative_to(tmp_path).as_posix())

    for owner in (module, bundle):
        monkeypatch.setattr(owner, "write_durably", note)
    install(slots, release, 3)
    assert (written[0], written[-2:]) == ("active", [f"a/{MARK}", "active"])
    assert set(written[1:-2]) == {
        f"a/{name}"
        for name in (
            "manifest.json", "model.onnx", "golden/in/image.npy", "golden/out/scores.npy", "golden/out/monitors.npy",
        )
    }  # fmt: skip


def test_a_damaged_pointer_is_not_guessed_at(slots: Slots, tmp_path: Path) -> None:
    (tmp_path / "active").write_text('{"slot": "a"')
    with pytest.raises(StateError, match="damaged"):
        slots.active()
