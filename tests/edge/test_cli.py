import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import skerry_edge
from skerry_edge.cli import main
from skerry_edge.config import AgentConfig, Folders, load
from skerry_edge.machine import budget_mb, settings_of
from skerry_shared.errors import ConfigError

HEAVY = ("torch", "onnx", "pyarrow", "tuf", "onnxruntime", "grpc", "numpy", "urllib3", "cryptography")


@pytest.mark.parametrize("module", ["skerry_edge", "skerry_edge.cli"])
def test_importing_is_light(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded).isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["skerry_edge.agent", "skerry_edge.client", "skerry_edge.enroll"])
def test_nothing_on_a_device_loads_what_is_not_installed_there(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded).isdisjoint({"torch", "onnx", "pyarrow", "tuf", "skerry_cloud"})


def test_the_agent_loads_when_it_needs_it_what_it_rarely_needs() -> None:
    script = "import sys, skerry_edge.agent; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    rare = {"tuf", "urllib3", "paho", "onnxruntime", "ai_edge_litert", "tarfile", "statistics", "decimal", "difflib"}
    assert set(loaded).isdisjoint(rare)


def test_public_names() -> None:
    assert skerry_edge.__all__ == ["Answer", "AsyncClient", "Client", "Prediction", "SocketClient"]
    assert all(hasattr(skerry_edge, name) for name in skerry_edge.__all__)


@pytest.mark.parametrize("command", ["enroll", "run", "status", "doctor", "infer"])
def test_help_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"example: skerry-agent {command}", text)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["enroll"], ["status", "--jsno"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: skerry-agent" in capsys.readouterr().err


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (f"skerry-agent: {tmp_path}: not enrolled; run `skerry-agent enroll` first\n")


MINIMAL = 'fleet = "f"\ndevice = "d"\nprofile = "p"\nrepository = "https://r"\ngateway = "g:1"\n'


def test_configuration_has_defaults(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(MINIMAL)
    assert load(Folders(tmp_path)) == AgentConfig("f", "d", "p", "https://r", "g:1")


def test_what_the_configuration_leaves_open_the_profile_says() -> None:
    jetson = AgentConfig("f", "d", "jetson-orin-nano", "https://r", "g:1")
    assert settings_of(jetson).providers == ("tensorrt", "cuda", "cpu")
    assert budget_mb(jetson) == 512
    own = replace(jetson, providers=("cpu",), models_mb=100)
    assert (settings_of(own).providers, budget_mb(own)) == (("cpu",), 100)
    unknown = replace(jetson, profile="of-another-fleet")
    assert settings_of(unknown).providers == ("cpu",) and budget_mb(unknown) > 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_rat = 1", "unknown key 'sample_rat'; did you mean 'sample_rate'"),
        ("sample_rate = 2", "sample_rate from 0 to 1"),
        ("sample_mb_day = 0", "sample_mb_day: needs a number above 0"),
        ('transports = ["mqtt"]', "'mqtt' needs the key 'mqtt'"),
        ('transports = ["smoke"]', "expected one of 'mqtt', 'grpc'"),
        ("grpc_port = 70000", "grpc_port"),
        ('mqtt = "broker"', "mqtt: 'broker' is not host:port"),
        ("[health]\nmin_agreement = 3", "min_agreement and max_loss from 0 to 1"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "agent.toml").write_text(MINIMAL + text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(Folders(tmp_path))


def test_a_folder_too_deep_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="move the folder"):
        _ = Folders(tmp_path / ("x" * 108)).socket


@pytest.mark.parametrize(("arguments", "expected"), [([], ""), (["--profile", "auto"], "generic-x86-64")])
def test_auto_is_what_this_board_is(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def enroll(folder: Path, url: str, token: str, name: str, profile: str, pseudonyms: None) -> None:
        asked.append(profile)
        raise ConfigError("far enough")

    monkeypatch.setattr("skerry_edge.enroll.enroll", enroll)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert main(["enroll", "--cloud", "https://c", "--token", "t", "--name", "n", *arguments, str(tmp_path)]) == 2
    assert asked == [expected]
