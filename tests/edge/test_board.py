"""Every board is known again by its files; what a tree lacks is unknown, and no file of it can make the reader fail."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_edge import board
from skerry_shared import profiles
from skerry_shared.config import load_toml
from skerry_shared.errors import ConfigError, UnfitError
from skerry_shared.profiles import Profile
from skerry_shared.testing import boards

pytestmark = pytest.mark.arm64


KNOWN = profiles.load_all()


def arch(name: str) -> str:
    return KNOWN[name].arch


def tree(name: str, root: Path, **more: str) -> Path:
    return boards.lay_out(boards.BOARDS[name] | more, root)


@pytest.mark.parametrize("name", boards.BOARDS)
def test_a_board_is_known_again(name: str, tmp_path: Path) -> None:
    found = board.read(tree(name, tmp_path), arch(name))
    assert profiles.profile_for(found, KNOWN) == name
    assert board.differences(KNOWN[name], found) == []
    assert board.modes_differ(KNOWN[name], board.condition(KNOWN[name].thermal.zones, tmp_path)) == ""


def test_every_profile_has_a_board_but_those_that_only_an_operator_can_name() -> None:
    assert set(KNOWN) - set(boards.BOARDS) == {"industrial-pc", "litert-arm64", "litert-x86-64"}


def test_every_profile_has_its_install_notes() -> None:
    assert {file.stem for file in profiles.FOLDER.glob("*.md")} >= set(KNOWN)


def test_what_is_read_of_a_jetson(tmp_path: Path) -> None:
    found = board.read(tree("jetson-orin-nano", tmp_path), "aarch64")
    assert (found.model, found.l4t) == ("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3")
    assert found.compatible[1:] == ("nvidia,p3767-0005", "nvidia,tegra234")
    assert (found.cores, found.memory_mb, found.storage, found.links) == (6, 7617, "nvme", ("ethernet",))
    assert board.condition(("tj-thermal",), tmp_path) == board.Condition(53.25, False, "MAXN_SUPER")
    assert board.condition(("cpu-thermal", "gpu-thermal"), tmp_path).hottest_c == 52.5


def test_what_is_read_of_a_pi(tmp_path: Path) -> None:
    found = board.read(tree("raspberry-pi-zero-2-w", tmp_path), "aarch64")
    assert (found.cores, found.memory_mb, found.storage, found.links) == (4, 427, "sd", ("wifi",))
    assert "asimddp" not in found.features
    assert found.system == "Debian GNU/Linux 12 (bookworm)"


def test_links_of_a_pc_and_its_maker(tmp_path: Path) -> None:
    found = board.read(tree("generic-x86-64", tmp_path), "x86_64")
    assert (found.model, found.links, found.storage, found.cores) == ("Box PC 1000", ("metered",), "nvme", 2)


@pytest.mark.parametrize(("bits", "throttled"), [("0", False), ("50000", False), ("50005", True), ("0x4", True)])
def test_a_pi_that_was_throttled_before_is_not_throttled_now(tmp_path: Path, bits: str, throttled: bool) -> None:
    firmware = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    assert board.condition((), tree("raspberry-pi-5", tmp_path, **{firmware: bits})).throttled is throttled


@pytest.mark.parametrize(
    ("kind", "throttled"), [("pwm-fan", False), ("cpufreq-cpu0", True), ("gpu-throttle-alert", True)]
)
def test_a_fan_is_no_brake(tmp_path: Path, kind: str, throttled: bool) -> None:
    device = "sys/class/thermal/cooling_device0"
    root = tree("jetson-orin-nx", tmp_path, **{f"{device}/type": kind, f"{device}/cur_state": "2\n"})
    assert board.condition((), root).throttled is throttled


def test_less_than_the_profile_expects_is_said(tmp_path: Path) -> None:
    found = board.read(tree("raspberry-pi-zero-2-w", tmp_path), "aarch64")
    said = " | ".join(board.differences(KNOWN["raspberry-pi-5-hailo-8"], replace(found, cores=2)))
    for part in ("2 of 4 cores", "lacks asimddp, asimdhp", "not on the PCI bus: 1e60:2864"):
        assert part in said
    assert board.differences(KNOWN["generic-x86-64"], found) == ["the profile is for x86_64, this is aarch64"]


def test_a_power_mode_that_makes_figures_void_is_said(tmp_path: Path) -> None:
    now = board.condition((), tree("jetson-thor", tmp_path, **{"var/lib/nvpmodel/status": "pmode:0000"}))
    assert board.modes_differ(KNOWN["jetson-thor"], now) == "power mode 15W, the profile knows 120W, MAXN"


def test_an_empty_machine_is_unknown_but_no_error(tmp_path: Path) -> None:
    found = board.read(tmp_path, "x86_64")
    assert (found.model, found.cores, found.memory_mb, found.storage, found.links) == ("", 0, 0, None, ())
    assert board.condition((), tmp_path) == board.Condition(None, False, "")
    assert profiles.profile_for(found, KNOWN) == "generic-x86-64"


def test_no_profile_for_another_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="none is for riscv64"):
        profiles.profile_for(board.read(tmp_path, "riscv64"), KNOWN)


def test_the_same_kind_of_machine_has_the_same_kind(tmp_path: Path) -> None:
    one = board.read(tree("jetson-orin-nano", tmp_path / "1"), "aarch64")
    other = board.read(
        tree("jetson-orin-nano", tmp_path / "2", **{"proc/meminfo": "MemTotal: 7800100 kB\n"}), "aarch64"
    )
    assert one.kind == other.kind != replace(one, l4t="39.2.0").kind


@settings(max_examples=50)  # it writes files
@given(
    st.dictionaries(st.sampled_from(sorted(boards.BOARDS["jetson-thor"] | boards.BOARDS["raspberry-pi-5"])), st.text())
)
def test_no_content_makes_the_reader_fail(tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]) -> None:
    root = tmp_path_factory.mktemp("root")
    boards.lay_out({path: text.encode(errors="ignore").decode() for path, text in files.items()}, root)
    found = board.read(root, "aarch64")
    board.condition((), root)
    assert profiles.profile_for(found, KNOWN) in KNOWN


hardware = st.builds(
    board.Board,
    arch=st.sampled_from(["x86_64", "aarch64"]),
    model=st.just(""),
    compatible=st.lists(st.sampled_from(sorted({n for p in KNOWN.values() for n in p.device_tree}))).map(tuple),
    cores=st.integers(0, 16),
    features=st.just(()),
    memory_mb=st.just(0),
    pci=st.lists(st.sampled_from(["1e60:2864", "1ac1:089a", "8086:1572"])).map(tuple),
    system=st.just(""),
    l4t=st.just(""),
    storage=st.none(),
    links=st.just(()),
)


@given(hardware)
def test_the_choice_never_asks_for_what_is_not_there(found: board.Board) -> None:
    chosen = KNOWN[profiles.profile_for(found, KNOWN)]
    assert chosen.arch == found.arch
    assert chosen.pci <= set(found.pci)
    assert not chosen.device_tree or set(chosen.device_tree) & set(found.compatible)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coers = 4", "unknown key 'coers'; did you mean 'cores'"),
        ("[thermal]\nwarm_c = 90", "thermal: needs 0 < warm_c < hot_c"),
        ('[[accelerators]]\nkind = "fpga"', "accelerators: kind: expected one of 'gpu', 'npu', 'tpu'"),
    ],
)
def test_a_wrong_profile_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.toml").write_text((profiles.FOLDER / "generic-arm64.toml").read_text() + text)
    with pytest.raises(ConfigError) as caught:
        load_toml(Profile, tmp_path / "x.toml")
    assert message in str(caught.value)
