"""Models that crash, hang, leak, lie and eat memory, really, in real child processes."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skerry_edge.infer import engines, trial
from skerry_edge.infer.choose import Finding
from skerry_edge.infer.engines import Engines, Key
from skerry_edge.infer.measure import Job
from skerry_edge.infer.models import Chosen, Loader, Settings, usable_runtimes
from skerry_edge.infer.trial import try_out
from skerry_shared import bundle
from skerry_shared.bundle import Bundle, Golden
from skerry_shared.errors import ModelError
from skerry_shared.release import Manifest

Release = Callable[..., tuple[bytes, Manifest]]

EVIL = '''
"""A runtime whose providers are each bad in another way; "slow" is right, and a little slow."""
import ctypes, os, sys, time
from pathlib import Path
from skerry_edge.adapters.runtime_onnx import OnnxRuntime

class Evil:
    def providers(self):
        return ["cpu"]

    def version(self):
        return os.environ.get("EVIL_VERSION", "evil 1")

    def load(self, model, threads, provider="cpu", cache=None):
        with open(os.environ["EVIL_LOG"], "a") as log:
            print(provider, os.getpid(), file=log)
        if provider == "asks":
            idle, at_home = os.sched_getscheduler(0) == os.SCHED_IDLE, os.getsid(0) == os.getsid(os.getppid())
            sys.exit(f"gives way: {idle}, in the agent's session: {at_home}")
        if provider == "hangs at load":
            time.sleep(600)
        return Model(OnnxRuntime().load(model, threads), provider)

class Model:
    def __init__(self, good, provider):
        self.good, self.provider, self.kept = good, provider, []

    def run(self, inputs):
        if self.provider == "crashes":
            ctypes.string_at(0)
        if self.provider == "exits":
            print("no license for this board", file=sys.stderr)
            os._exit(3)
        if self.provider == "hangs":
            time.sleep(600)
        if self.provider == "eats":
            self.kept.append(b"x" * (2 << 30))
        if self.provider == "leaks":
            self.kept.append(b"x" * (1 << 16))
        if self.provider == "slow":
            time.sleep(0.002)
        print("chatter on stdout")
        answers = dict(self.good.run(inputs))
        return {name: array + 1 for name, array in answers.items()} if self.provider == "lies" else answers
'''


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: Release) -> Bundle:
    """A bundle for the runtime "evil", which is installed as any third party's would be."""
    packages = tmp_path / "packages"
    info = packages / "evil-1.dist-info"
    info.mkdir(parents=True)
    (packages / "evil.py").write_text(EVIL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[skerry.runtimes]\nevil = evil:Evil\n")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("EVIL_LOG", str(tmp_path / "log"))
    data, manifest = release()
    unpacked = bundle.unpack(data, tmp_path / "original")
    changed = replace(manifest, target=replace(manifest.target, runtime="evil"))
    return bundle.unpack(bundle.pack(changed, unpacked.model.read_bytes(), unpacked.golden), tmp_path / "evil")


def attempt(unpacked: Bundle, provider: str, deadline_s: float = 60) -> Finding:
    job = Job(str(unpacked.model.parent), provider, 1, str(unpacked.model.parent), memory_bytes=256 << 20)
    return try_out(job, lambda _: None, deadline_s)


def test_a_good_model_is_measured(release: Release, tmp_path: Path) -> None:
    finding = attempt(bundle.unpack(release()[0], tmp_path / "unpacked"), "cpu")
    assert (finding.fault, finding.max_diff) == ("", 0.0)
    assert finding.p50_ms > 0 and finding.load_ms > 0 and finding.batch >= 1


@pytest.mark.parametrize(
    ("provider", "fault"),
    [
        ("crashes", "crashed (SIGSEGV)"),
        ("exits", "ended with code 3: no license for this board"),
        ("asks", "gives way: True, in the agent's session: True"),
        ("lies", "golden check: output"),
        ("leaks", "it leaks"),
        ("eats", "more than 256 MB of memory"),
    ],
)
def test_a_bad_model_is_a_finding(evil: Bundle, provider: str, fault: str) -> None:
    assert fault in attempt(evil, provider).fault


@pytest.mark.parametrize("provider", ["hangs", "hangs at load"])
def test_a_hanging_model_is_killed(
    evil: Bundle, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "PROGRESS_S", 0.2)
    told: list[str] = []
    job = Job(str(evil.model.parent), provider, 1, str(tmp_path), memory_bytes=1 << 28)
    finding = try_out(job, told.append, deadline_s=6)
    assert finding.fault == "did not answer the golden inputs within 6 s"
    assert len(told) >= 3 and told[0].startswith(f"{provider}: being built and measured for ")
    pid = int((tmp_path / "log").read_text().split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_cpus_memory_is_limited_by_the_kernel_too(release: Release, tmp_path: Path) -> None:
    unpacked = bundle.unpack(release()[0], tmp_path / "unpacked")
    job = Job(str(unpacked.model.parent), "cpu", 1, str(tmp_path), memory_bytes=1 << 20)
    assert try_out(job, lambda _: None).fault


def loader(tmp_path: Path, *providers: str) -> Loader:
    return Loader(Engines(tmp_path / "engines"), Settings(providers, memory_bytes=256 << 20), lambda _: None)


def tried(tmp_path: Path) -> list[str]:
    """Providers that a child or this process loaded the model on."""
    return [line.rpartition(" ")[0] for line in (tmp_path / "log").read_text().splitlines()]


def test_the_agent_loads_only_what_proved_itself(evil: Bundle, tmp_path: Path) -> None:
    chosen = loader(tmp_path, "crashes", "lies", "cpu").load(evil)
    assert chosen.choice.provider == "cpu" and chosen.choice.fallback_from == "crashes"
    lines = [line.rpartition(" ") for line in (tmp_path / "log").read_text().splitlines()]
    assert [provider for provider, _, pid in lines if int(pid) == os.getpid()] == ["cpu"]


def test_what_is_known_is_not_tried_again_until_something_changes(
    evil: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loader(tmp_path, "slow", "cpu").load(evil)
    assert tried(tmp_path) == ["slow", "cpu", "cpu"]
    assert loader(tmp_path, "slow", "cpu").load(evil).choice == first.choice
    assert tried(tmp_path)[3:] == ["cpu"]
    monkeypatch.setenv("EVIL_VERSION", "evil 2")
    loader(tmp_path, "slow", "cpu").load(evil)
    assert tried(tmp_path)[4:] == ["slow", "cpu", "cpu"]


def test_an_application_takes_the_agents_word(evil: Bundle, tmp_path: Path) -> None:
    assert loader(tmp_path, "slow", "cpu").known(evil).choice.reason == "cpu 0 ms"
    chosen = loader(tmp_path, "cpu").load(evil)
    before = len(tried(tmp_path))
    known = loader(tmp_path, "cpu").known(evil)
    assert known.choice == chosen.choice and len(tried(tmp_path)) == before + 1
    np.testing.assert_array_equal(known.run(evil.golden.inputs)["scores"], evil.golden.outputs["scores"])


def test_none_will_do(evil: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"crashes: crashed \(SIGSEGV\); lies: golden check"):
        loader(tmp_path, "crashes", "lies").load(evil)


def test_the_doctor_fails_on_a_fall_back_and_looks_anew(evil: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"runs on cpu instead of exits: exits: ended with code 3"):
        loader(tmp_path, "exits", "cpu").examine(evil)
    before = len(tried(tmp_path))
    assert "cpu" in loader(tmp_path, "cpu").examine(evil)
    assert len(tried(tmp_path)) == before + 1


def test_a_model_that_is_not_there_for_this_build(release: Release, tmp_path: Path) -> None:
    unpacked = bundle.unpack(release()[0], tmp_path / "unpacked")
    chosen = loader(tmp_path, "tensorrt", "cpu").load(unpacked)
    assert isinstance(chosen, Chosen) and chosen.choice.fallback_from == "tensorrt"
    assert "not in this onnxruntime" in chosen.choice.reason


def test_the_oldest_engines_give_way(tmp_path: Path) -> None:
    kept = Engines(tmp_path / "engines")
    keys = [Key(f"{i}", "r", "cpu", 1, "class") for i in range(engines.KEPT + 3)]
    for i, key in enumerate(keys):
        kept.save(key, Finding("cpu", p50_ms=i))
        os.utime(kept.path(key), (i, i))
    assert kept.finding(keys[0]) is None and kept.finding(keys[-1]) == Finding("cpu", p50_ms=len(keys) - 1)
    assert len(list((tmp_path / "engines").iterdir())) == engines.KEPT


def test_a_key_names_all_it_depends_on() -> None:
    key = Key("m", "r", "cpu", 1, "class")
    others = [Key("x", "r", "cpu", 1, "class"), Key("m", "x", "cpu", 1, "class"), Key("m", "r", "x", 1, "class")]
    others += [Key("m", "r", "cpu", 2, "class"), Key("m", "r", "cpu", 1, "x")]
    assert len({one.name() for one in (key, *others)}) == 6


def test_golden_outputs_decide(release: Release, tmp_path: Path) -> None:
    data, manifest = release()
    unpacked = bundle.unpack(data, tmp_path / "good")
    outputs = unpacked.golden.outputs
    spoilt = Golden(unpacked.golden.inputs, {**outputs, "scores": outputs["scores"] + 1})
    wrong = bundle.unpack(bundle.pack(manifest, unpacked.model.read_bytes(), spoilt), tmp_path / "wrong")
    assert "golden check" in attempt(wrong, "cpu").fault


def test_a_runtime_whose_package_is_missing_is_not_usable(evil: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "evil" in usable_runtimes() and "onnxruntime" in usable_runtimes()
    monkeypatch.setattr("skerry_edge.adapters.runtime_litert.MODULES", {"no-such-package": "no_such_module"})
    assert "litert" not in usable_runtimes()
