"""Candidates made by workers of a cluster: who makes what, and a real one of Ray's on this machine."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud import datasets, passes, runs, workloads
from skerry_cloud.adapters import ray_cluster
from skerry_cloud.compress import cluster, study
from skerry_cloud.compress.job import work
from skerry_cloud.compress.study import Study
from skerry_cloud.datasets import REFERENCE
from skerry_cloud.job import Progress
from skerry_cloud.specs import CompressSpec, TrainSpec, Wanted
from skerry_cloud.train.job import work as train
from skerry_shared.errors import ConfigError
from story.crew import Crew
from story.stage import free_ports

HERE = Path(__file__).parent
INT8 = "int8(arch='x86_64')"
RECIPES = (f"{INT8} + slim", f"distil(width=0.5, epochs=2) + onnx + {INT8}", "distil(width=0.5, epochs=2) + onnx",
           "distil(width=1.5, epochs=2) + onnx", "prune(keep=0.5) + onnx")  # fmt: skip


@given(st.lists(st.sampled_from(RECIPES), unique=True))
def test_no_two_workers_make_the_same_step(texts: list[str]) -> None:
    shares = cluster.apart([passes.parse(text) for text in texts])
    assert sorted(text for share in shares for text in share) == sorted(texts)
    steps = [{passes.spell(recipe[:n]) for recipe in map(passes.parse, share) for n in (1, 2, 3)} for share in shares]
    assert not any(one & other for one, other in combinations(steps, 2))


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'skerry\[cloud,ray\]'"):
        list(ray_cluster.spread("auto", print, [1]))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a cluster of this machine alone."""
    pytest.importorskip("ray", reason="pip install 'skerry[ray]'")
    (port,) = free_ports(1)
    command = ("start", "--head", "--block", "--port", str(port), "--node-ip-address", "127.0.0.1", "--num-cpus", "2")
    extra = ("--include-dashboard", "false", "--temp-dir", f"/tmp/ray-{port}")  # a socket's path must be short
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    with Crew(tmp_path / "logs") as crew:
        program = Path(sys.executable).with_name("ray")
        process = crew.start("ray", program, *command, *extra, stdout=subprocess.PIPE, environment=environment)
        assert process.stdout and any(b"Ray runtime started" in line for line in process.stdout), crew.log("ray")
        yield f"127.0.0.1:{port}"
    shutil.rmtree(f"/tmp/ray-{port}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_make_what_would_be_made_here(address: str, tmp_path: Path) -> None:
    tiny = workloads.load("tiny.py:Tiny", HERE)
    examples = tiny.examples()
    datasets.create(tmp_path / "data", tiny, examples, [REFERENCE] * len(examples), created=1.0)
    for name in ("here", "there"):
        train(TrainSpec("tiny.py:Tiny", HERE, tmp_path / "data", 1, tmp_path / name), lambda _: None)
    here, _ = compress(tmp_path, "here", "")
    there, said = compress(tmp_path, "there", address)
    assert there == here and len(here) == len(RECIPES)
    assert (said[-1].done, said[-1].total) == (4, 4)  # by first step
    _, again = compress(tmp_path, "there", address)
    assert not again  # all is there


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_work_that_fails_there_does_not_keep_the_rest_from_being_done(address: str) -> None:
    assert list(ray_cluster.spread(address, fail, [1, 2])) == [1, 2]


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named() -> None:
    """In a process of its own: Ray cannot be used any more where that happened."""
    pytest.importorskip("ray", reason="pip install 'skerry[ray]'")
    program = "from skerry_cloud.adapters import ray_cluster; list(ray_cluster.spread('ray://127.0.0.1:1', print, [1]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "LinkError: compress.ray: ray://127.0.0.1:1: " in done.stderr


def fail(_: int) -> None:
    raise ZeroDivisionError


def compress(folder: Path, run: str, ray: str) -> tuple[dict[str, str], list[Progress]]:
    """The digest of each recipe's model, or why there is none; and what was said of the cluster."""
    said = list[Progress]()
    wanted = Wanted(("generic-x86-64",), 50.0, recipes=RECIPES)
    work(CompressSpec("tiny.py:Tiny", HERE, folder / "data", 1, folder / run, wanted, ray=ray), said.append)
    (search,) = runs.read(Study, folder / run / study.FOLDER / study.STUDY).searches
    made = {trial.recipe: trial.lineage[-1].sha256 if trial.lineage else trial.error for trial in search.trials}
    return made, [progress for progress in said if progress.stage == "ray"]
