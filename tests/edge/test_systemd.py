"""The unit is sound and tight as systemd itself judges, and the agent speaks its protocol."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from skerry_edge.notify import READY, STOPPING, WATCHDOG, Notifier

UNIT = Path(__file__).parents[2] / "devices/skerry-agent.service"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(ANALYZE), *arguments, str(UNIT)], capture_output=True, text=True, timeout=60)


@needs_systemd
def test_the_unit_has_no_mistake() -> None:
    found = analyze("verify")
    assert (found.returncode, found.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_exposed_to_less_than_3() -> None:
    found = analyze("security", "--offline=true", "--threshold=30", "--no-pager")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("abstract", [False, True])
def test_words_arrive_at_the_socket_that_systemd_names(tmp_path: Path, abstract: bool) -> None:
    name = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000"})
        assert notifier.watchdog_s == 60
        assert notifier.tell(READY) and notifier.tell(WATCHDOG, STOPPING)
        assert [systemd.recv(100), systemd.recv(100)] == [b"READY=1", b"WATCHDOG=1\nSTOPPING=1"]


def test_a_supervisor_that_is_away_or_deaf_costs_nothing(tmp_path: Path) -> None:
    assert not Notifier({}).tell(READY)
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        while notifier.tell(WATCHDOG):
            """Until its queue is full."""


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_a_watchdog_for_somebody_else_is_not_ours(environment: dict[str, str]) -> None:
    assert Notifier(environment).watchdog_s is None
