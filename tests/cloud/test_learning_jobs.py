"""Train, compress, package: the real jobs in processes of their own, on a workload that a user could have written."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from skerry_cloud import datasets, launch, runs, workloads
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.compress import graphs
from skerry_cloud.compress.golden import FLOOR
from skerry_cloud.compress.job import kinds_of
from skerry_cloud.compress.job import work as compress
from skerry_cloud.compress.measure import BASELINE_MIN
from skerry_cloud.compress.passes.static import QUANTISED
from skerry_cloud.datasets import REFERENCE, TEST
from skerry_cloud.evaluate.compare import Verdict
from skerry_cloud.evaluate.job import work as compare
from skerry_cloud.job import Progress
from skerry_cloud.release.package import package
from skerry_cloud.specs import CompareSpec, CompressSpec, TrainSpec, Wanted
from skerry_cloud.train.job import work as train
from skerry_cloud.workloads import Examples
from skerry_shared import bundle, profiles, sketch
from skerry_shared.errors import ConfigError, GateError, ModelError, NotFoundError
from skerry_shared.release import Kind, Lineage

HERE = Path(__file__).parent
PROFILES = ("generic-x86-64", "generic-arm64", "industrial-pc")
INT8_PC = Kind("onnxruntime", "int8", "x86_64")
INT8_ARM = Kind("onnxruntime", "int8", "aarch64")
FLOAT_PC = Kind("onnxruntime", "float32", "x86_64")
LINEAGE = Lineage(1, "aa", 1, "abc123")


@dataclass(frozen=True)
class Story:
    """A trained and compressed run, and how to do more."""

    folder: Path
    said: list[Progress]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def train(self, **changes: Any) -> TrainSpec:
        return replace(TrainSpec("tiny.py:Tiny", HERE, self.folder / "data", 1, self.run), **changes)

    def compress(self, **changes: Any) -> CompressSpec:
        train = self.train()
        spec = CompressSpec(train.workload, train.folder, train.datasets, train.dataset, train.run, Wanted(PROFILES))
        return replace(spec, **changes)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The child processes run once; what they left is looked at from all sides."""
    story = Story(tmp_path_factory.mktemp("story"), [])
    tiny = workloads.load("tiny.py:Tiny", HERE)
    examples = tiny.examples()
    datasets.create(story.folder / "data", tiny, examples, [REFERENCE] * len(examples), created=1.0)
    for module, spec in (("train", story.train()), ("compress", story.compress())):
        asyncio.run(launch.run(f"skerry_cloud.{module}.job", spec, story.folder, story.said.append))
    return story


def test_progress_comes_in_order(story: Story) -> None:
    stages = list(dict.fromkeys(progress.stage for progress in story.said))
    kinds = [f"{kind.name} rung 1" for kind in (FLOAT_PC, INT8_ARM, INT8_PC)]
    assert stages == ["data", "train", "export", "evaluate", *kinds]
    assert all(0 <= progress.done <= progress.total for progress in story.said)
    assert story.said[-1].done == story.said[-1].total == 1


def test_metrics_are_of_held_out_rows(story: Story) -> None:
    metrics = runs.read(runs.Metrics, story.run / runs.METRICS)
    assert metrics.overall["accuracy"] > 0.9
    assert metrics.groups == {REFERENCE: metrics.overall} == metrics.sources
    assert set(metrics.recall) == {"left", "right"}
    assert (metrics.training.epochs, metrics.training.epoch_size) == (3, 320)
    assert metrics.training.parity < 1e-4


def test_the_export_takes_raw_input_of_any_batch_and_tells_no_tales(story: Story) -> None:
    model = onnx.load(story.run / runs.MODEL)
    assert model.ir_version <= 10
    assert model.opset_import[0].version <= 20
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b"/tiny.py" not in model.SerializeToString()
    loaded = OnnxModel(story.run / runs.MODEL)
    for size in (1, 7):
        answers = loaded.run(np.zeros((size, 4, 4), np.uint8))
        assert answers.scores.shape == answers.monitors.shape == (size, 2)


def test_there_is_one_variant_for_each_kind_of_device(story: Story) -> None:
    found = sorted(path.name for path in (story.run / "variants").iterdir())
    assert found == [FLOAT_PC.name, INT8_ARM.name, INT8_PC.name]
    assert kinds_of(("generic-x86-64", "generic-x86-64")) == {INT8_PC: ["generic-x86-64"]}
    with pytest.raises(ConfigError, match="name at least one"):
        kinds_of(())


@pytest.mark.parametrize(("arch", "zero_points"), [("x86_64", "uint8"), ("aarch64", "int8")])
def test_int8_is_made_for_its_architecture(story: Story, arch: str, zero_points: str) -> None:
    graph = onnx.load(runs.variant(story.run, replace(INT8_PC, arch=arch)).model).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    activations = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {zero_point.dtype for zero_point in activations} == {np.dtype(zero_points)}
    weights = [values for values in constants.values() if values.dtype == np.int8 and values.ndim == 4]
    largest = max(int(np.abs(values.astype(int)).max()) for values in weights)
    assert largest <= 64 if arch == "x86_64" else largest > 64  # reduce_range keeps to 7 bits


def test_the_monitors_are_not_quantised(story: Story) -> None:
    inputs = np.random.default_rng(0).integers(0, 255, (50, 4, 4), dtype=np.uint8)
    exact = OnnxModel(story.run / runs.MODEL).run(inputs).monitors
    assert np.array_equal(OnnxModel(runs.variant(story.run, INT8_PC).model).run(inputs).monitors, exact)
    nodes = graphs.names(onnx.load(story.run / runs.MODEL).graph, QUANTISED)
    assert len(nodes) == 3  # Conv, Relu, Gemm, and neither pre-processing nor monitors


def test_a_monitor_that_needs_weights_of_its_own_stays_float() -> None:
    graph = onnx.parser.parse_graph("""
        watched (float[N, 1, 4, 4] picture) => (float[N, 1, 4, 4] scores, float[N, 1, 4, 4] monitors) {
            [filter] edges = Conv (picture, kernel)
            [network] features = Conv (picture, weights)
            [rectifier] scores = Relu (features)
            [size] monitors = Relu (edges)
        }
    """)
    assert graphs.names(graph, QUANTISED) == ["network", "rectifier"]


def test_a_report_holds_what_the_device_needs(story: Story) -> None:
    tiny = workloads.load("tiny.py:Tiny", HERE)
    for kind in kinds_of(PROFILES):
        variant = runs.variant(story.run, kind)
        report = variant.report()
        assert report.model_bytes == variant.model.stat().st_size
        assert report.drop <= tiny.max_drop
        assert report.tolerance == FLOOR
        assert tuple(channel.name for channel in report.baseline) == sketch.channel_names(tiny.monitors)
        assert {sum(channel.counts) for channel in report.baseline} == {BASELINE_MIN}
        golden = OnnxModel(variant.model).run(np.load(variant.golden("in") / "picture.npy"))
        assert np.array_equal(golden.scores, np.load(variant.golden("out") / "scores.npy"))
    assert runs.variant(story.run, FLOAT_PC).report().parity == 0


def test_golden_inputs_are_held_out(story: Story) -> None:
    golden = np.load(runs.variant(story.run, INT8_PC).golden("in") / "picture.npy")
    test = datasets.open_version(story.folder / "data", 1).read().of(TEST)
    held_out = {picture.tobytes() for picture in test.examples.inputs}
    assert len(golden) == 32
    assert {picture.tobytes() for picture in golden} <= held_out


def test_a_package_is_a_bundle_and_the_same_each_time(story: Story, tmp_path: Path) -> None:
    target = profiles.load("generic-arm64").target("generic-arm64")
    data = package(story.run, target, "tiny", 3, LINEAGE)
    assert data == package(story.run, target, "tiny", 3, LINEAGE)
    unpacked = bundle.unpack(data, tmp_path / "bundle")
    manifest = unpacked.manifest
    assert (manifest.workload, manifest.release, manifest.owner) == ("tiny", 3, "tests")
    assert manifest.target == target
    assert manifest.lineage == LINEAGE
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [("scores", (-1, 2)), ("monitors", (-1, 2))]
    answers = OnnxModel(unpacked.model).run(np.asarray(unpacked.golden.inputs["picture"]))
    assert np.array_equal(answers.scores, unpacked.golden.outputs["scores"])


def test_what_was_not_made_or_does_not_fit_is_not_packaged(story: Story) -> None:
    target = profiles.load("generic-arm64").target("generic-arm64")
    with pytest.raises(NotFoundError, match=r"no report\.json in .*float32-aarch64"):
        package(story.run, replace(target, precision="float32"), "tiny", 1, LINEAGE)
    with pytest.raises(GateError, match="the profile allows 100"):
        package(story.run, replace(target, memory_bytes=100), "tiny", 1, LINEAGE)


def test_a_variant_that_loses_too_much_is_stopped_with_the_figures(story: Story, tmp_path: Path) -> None:
    run = _copy_of_model(story, tmp_path)
    with pytest.raises(GateError, match=r"\+0\.00 points, .* on 40 rows; allowed -101; .*\(Conv\)"):
        compress(story.compress(run=run, wanted=Wanted(("generic-x86-64",), -101.0)), _ignore)
    with pytest.raises(NotFoundError, match="no report"):
        runs.variant(run, INT8_PC).report()


def test_retraining_mends_what_drifted_and_the_comparison_sees_it(story: Story, tmp_path: Path) -> None:
    tiny = workloads.load("tiny.py:Tiny", HERE)
    parent = datasets.open_version(story.folder / "data", 1)
    turned = Examples(tiny.examples().inputs.swapaxes(1, 2), tiny.examples().labels)  # the camera lies on its side
    child = datasets.create(story.folder / "data", tiny, turned, ["device:edge-1"] * len(turned), parent, created=2.0)
    changes: dict[str, Any] = {"dataset": child.info.version, "run": tmp_path}
    train(story.train(**changes, parent=story.run, epochs=8, train_size=0), _ignore)
    metrics = runs.read(runs.Metrics, tmp_path / runs.METRICS)
    assert set(metrics.groups) == {"reference", "recent"}
    assert set(metrics.sources) == {"reference", "device:edge-1"}
    compress(story.compress(**changes, wanted=Wanted(("generic-x86-64",), 8.0)), _ignore)
    compare(
        CompareSpec(
            workload="tiny.py:Tiny",
            folder=HERE,
            datasets=story.folder / "data",
            dataset=child.info.version,
            champion=story.run,
            candidate=tmp_path,
            kind=INT8_PC,
            max_loss=20.0,  # 40 old examples cannot show less
        ),
        _ignore,
    )
    report = runs.variant(tmp_path, INT8_PC).report()
    assert set(report.references) == {"device:edge-1"}
    assert report.references["device:edge-1"][0].edges == report.baseline[0].edges
    verdict = runs.read(Verdict, tmp_path / runs.VERDICT)
    assert verdict.passed, verdict.reason
    assert (verdict.figures.recent, verdict.figures.reference) == (120, 40)


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        ("train", {"dataset": 99}, "dataset: no version 99"),
        ("train", {"workload": "tiny.py:Huge"}, "workload 'tiny.py:Huge'"),
        ("compress", {"wanted": Wanted(("toaster",))}, "profile: no 'toaster'; known: coral-dev-board"),
    ],
)
def test_a_job_that_cannot_be_done_says_why(
    story: Story, tmp_path: Path, module: str, change: dict[str, Any], message: str
) -> None:
    make: Callable[..., Any] = story.train if module == "train" else story.compress
    with pytest.raises(NotFoundError, match=message):
        asyncio.run(launch.run(f"skerry_cloud.{module}.job", make(**change), tmp_path, _ignore))


def test_a_parent_without_weights_or_with_other_ones_is_refused(story: Story, tmp_path: Path) -> None:
    spec = story.train(run=tmp_path / "warm", parent=tmp_path)
    with pytest.raises(ModelError, match=r"cannot start from the weights of .* No such file"):
        train(spec, _ignore)
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / runs.WEIGHTS)
    with pytest.raises(ModelError, match=r"cannot start from the weights of (.|\n)*Missing key"):
        train(spec, _ignore)


def test_what_is_no_model_is_a_model_error(tmp_path: Path, story: Story) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"model\.onnx: "):
        OnnxModel(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="does not answer"):
        OnnxModel(story.run / runs.MODEL).run(np.zeros((1, 5, 5), np.uint8))


def _copy_of_model(story: Story, folder: Path) -> Path:
    (folder / runs.MODEL).write_bytes((story.run / runs.MODEL).read_bytes())
    return folder


def _ignore(_: Progress) -> None:
    pass
