"""A candidate travels to an idle device, is measured there, and what the device found chooses."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets

from story.crew import Crew, run
from story.stage import Stage

SKERRY = Path(sys.executable).parent / "skerry"
PROFILE = "generic-x86-64"
RECIPES = ("slim", "int8(arch='x86_64') + slim")
TINY = Path(__file__).parents[1] / "cloud/tiny.py"


@pytest.fixture
def stage(tmp_path: Path, crew: Crew) -> Stage:
    made = Stage(tmp_path, crew, mqtt=True)
    made.init_cloud({"workloads.tiny": f"{TINY}:Tiny"})
    made.start_cloud()
    return made


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with Crew(tmp_path / "logs") as crew:
        yield crew


@pytest.mark.slow
@pytest.mark.timeout(400)  # a cloud that starts, and seven jobs
def test_devices_choose_and_go_on_serving(stage: Stage, crew: Crew, tmp_path: Path) -> None:
    def skerry(*command: str | Path, code: int = 0) -> str:
        done = run(SKERRY, *command, environment={"SKERRY_CLOUD": str(stage.operator)})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def compress(number: int, *options: str) -> dict[str, Any]:
        recipes = [word for recipe in RECIPES for word in ("--recipe", recipe)]
        made = skerry("compress", str(number), "--profile", PROFILE, *recipes, "--json", *options)
        search: dict[str, Any] = json.loads(made)["study"]["searches"][0]
        return search

    skerry("data", "add", "tiny")
    skerry("train", "tiny")
    assert not any(trial["devices"] for trial in compress(1)["trials"])  # there is no device yet
    skerry("publish", "1")
    assert stage.enroll("edge-1", skerry("device", "add", "edge-1").strip()).returncode == 0
    stage.start_agent("edge-1", {"transports": ["mqtt"]})
    skerry("rollout", "start", "tiny/1", "--wait")

    skerry("train", "tiny")
    search = compress(2, "--report", str(tmp_path / "report.html"))
    measured = {trial["recipe"]: trial["devices"] for trial in search["trials"]}
    assert measured.keys() == set(RECIPES)
    for rows in measured.values():
        (row,) = rows
        assert (row["device"], row["profile"], row["provider"], row["fault"]) == ("edge-1", PROFILE, "cpu", "")
        assert row["latency_ms"] > 0
    best = min(rows[0]["latency_ms"] for rows in measured.values())
    assert measured[search["chosen"]][0]["latency_ms"] <= best * 1.03
    assert "on devices" in search["reason"] and "edge-1" in search["reason"]
    assert "edge-1" in (tmp_path / "report.html").read_text()

    too_slow = skerry("compress", "2", "--profile", PROFILE, "--max-latency", "0.0001", code=1)
    assert "device: " in too_slow and "edge-1" not in json.dumps(compress(2, "--device-minutes", "0"))

    device = json.loads(skerry("device", "show", "edge-1", "--json"))
    assert device["runs"] == [{"workload": "tiny", "release": 1}]
    assert [told["release"] for told in device["assignments"]] == [1]
    newest = max((stage.cloud_folder / "repository/metadata").glob("*.models-tiny.json"), key=_version)
    signed: Metadata[Targets] = Metadata.from_file(str(newest))
    assert list(signed.signed.targets) == [f"tiny/1/{PROFILE}.bundle"]
    assert not list((stage.cloud_folder / "repository/targets/tiny").glob("0/*"))

    crew.stop("edge-1")
    silent = compress(2)  # nobody is asked who is not linked
    assert not any(trial["devices"] for trial in silent["trials"])
    skerry("publish", "2")


def _version(path: Path) -> int:
    return int(path.name.partition(".")[0])
