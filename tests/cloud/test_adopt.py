"""Models that were made elsewhere become runs, or are refused by the name of the tensor that does not fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.compress.job import work as compress
from skerry_cloud.datasets import REFERENCE, TEST
from skerry_cloud.job import Progress
from skerry_cloud.release.package import package
from skerry_cloud.specs import AdoptSpec, CompressSpec, TrainSpec, Wanted
from skerry_cloud.train.adopt import work as adopt
from skerry_cloud.train.job import work as train
from skerry_shared import bundle, profiles
from skerry_shared.errors import ConfigError, ModelError
from skerry_shared.release import Lineage

HERE = Path(__file__).parent

# Brightness of the left and of the right half, as a network of another framework might say it.
FOREIGN = """
    <ir_version: 8, opset_import: ["" : 13]>
    foreign (float[1, 4, 4] pixels) => (float[1, 2] halves)
    <int64[2] flat = {-1, 16}, int64[1] first = {0}, int64[1] middle = {8}, int64[1] last = {16}, int64[1] axis = {1},
     float gain = {40}> {
        turned = Transpose <perm = [0, 2, 1]> (pixels)
        row = Reshape (turned, flat)
        left_half = Slice (row, first, middle, axis)
        right_half = Slice (row, middle, last, axis)
        left = ReduceMean <axes = [1]> (left_half)
        right = ReduceMean <axes = [1]> (right_half)
        both = Concat <axis = 1> (left, right)
        halves = Mul (both, gain)
    }
"""
Story = Callable[..., AdoptSpec]


def foreign(folder: Path, *changes: tuple[str, str]) -> Path:
    text = FOREIGN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "foreign.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """What to import, from what was changed in the file."""
    workload = workloads.load("tiny.py:Brought", HERE)
    examples = workload.examples()
    datasets.create(tmp_path / "data", workload, examples, [REFERENCE] * len(examples), created=1.0)
    (tmp_path / "run").mkdir()

    def spec(*changes: tuple[str, str], **more: Any) -> AdoptSpec:
        file = foreign(tmp_path, *changes)
        made = AdoptSpec("tiny.py:Brought", HERE, tmp_path / "data", 1, tmp_path / "run", file)
        return replace(made, **more)

    return spec


def run(spec: AdoptSpec) -> str:
    """What it said."""
    said = list[Progress]()
    adopt(spec, said.append)
    return "\n".join(progress.note for progress in said)


def test_a_foreign_file_becomes_a_run_and_tells_what_was_changed(story: Story) -> None:
    spec = story()
    said = run(spec)
    for change in (
        "batch of 1 is made free",
        "'pixels' is called 'picture'",
        "softmax is appended",
        "opset 13 is converted to 20",
        "monitors mean, spread",
    ):
        assert change in said
    assert runs.read(runs.Metrics, spec.run / runs.METRICS).overall["accuracy"] == 1.0
    inputs = datasets.open_version(spec.datasets, 1).read().of(TEST).examples.inputs
    answers = OnnxModel(runs.model(spec.run)).run(inputs)
    halves = 40 * np.stack([inputs[:, :, :2].mean((1, 2)), inputs[:, :, 2:].mean((1, 2))], axis=1)
    odds = np.exp(halves - halves.max(axis=1, keepdims=True))
    np.testing.assert_allclose(answers.scores, odds / odds.sum(axis=1, keepdims=True), atol=1e-6)
    flat = inputs.reshape(len(inputs), -1)
    np.testing.assert_allclose(answers.monitors, np.stack([flat.mean(1), flat.std(1, ddof=1)], axis=1), atol=1e-6)


def test_probabilities_and_our_own_names_stay_as_they_are(story: Story) -> None:
    ours = (("halves = Mul (both, gain)", "loud = Mul (both, gain) scores = Softmax <axis = 1> (loud)"),
            ("halves)", "scores)"), ("pixels", "picture"), ("float[1, ", "float[batch, "))  # fmt: skip
    said = run(story(*ours))
    assert "softmax" not in said and "called" not in said and "free" not in said


def test_it_is_compressed_and_packaged_as_any_other_run(story: Story, tmp_path: Path) -> None:
    spec = story()
    run(spec)
    asked = CompressSpec(spec.workload, HERE, spec.datasets, 1, spec.run, Wanted(("industrial-pc",)))
    compress(asked, lambda _: None)
    target = profiles.load("industrial-pc").target("industrial-pc")
    unpacked = bundle.unpack(
        package(spec.run, target, "brought", 1, Lineage(1, "aa", 1, "sha256:ab")), tmp_path / "slot"
    )
    assert unpacked.manifest.lineage.code == "sha256:ab"
    assert unpacked.manifest.measured.accuracy == 1.0
    assert [channel.name for channel in unpacked.manifest.baseline] == [
        "mean",
        "spread",
        "predicted class",
        "confidence",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("float[1, 4, 4] pixels", "float[1, 2, 8] pixels")], r"input 'pixels': the file takes float32 \[1, 2, 8\]"),
        ([("float[1, 4, 4] pixels", "double[1, 4, 4] pixels"), ("float gain", "double gain"),
          ("float[1, 2] halves", "double[1, 2] halves")], "input 'pixels': the file takes float64"),
        ([("(float[1, 4, 4] pixels)", "(float[1, 4, 4] pixels, float[1] more)")], "the file takes 'pixels', 'more'"),
        ([("(float[1, 2] halves)", "(float[1, 2] halves, float[1, 16] row)")], "not one output in the file; it has"),
        ([("(float[1, 2] halves)", "(float[1, 1] left)")], r"output 'scores': \[3, 1\] for 3 inputs"),
        ([("{-1, 16}", "{1, 16}")], "is the batch fixed inside the file's graph"),
        ([('"" : 13', '"" : 22'), (" <axes = [1]> (left_half)", " (left_half, axis)"),
          (" <axes = [1]> (right_half)", " (right_half, axis)")], "opset 22; devices' runtimes know 20"),
        ([("gain = {40}", "gain = {nan}")], "output 'scores': not every value is a finite number"),
        ([("left = Reduce", "picture = Reduce"), ("(left,", "(picture,")], "tensor 'picture': the file uses that name"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(story: Story, changes: list[tuple[str, str]], words: str) -> None:
    spec = story(*changes)
    with pytest.raises(ModelError, match=words):
        run(spec)
    assert not list(spec.run.iterdir())


def test_one_of_several_outputs_is_chosen_by_name_and_the_rest_is_left_out(story: Story) -> None:
    spec = story(("(float[1, 2] halves)", "(float[1, 16] row, float[1, 2] halves)"), scores="halves")
    assert "output 'row' is left out" in run(spec)
    assert [output.name for output in onnx.load(runs.model(spec.run)).graph.output] == ["scores", "monitors"]
    with pytest.raises(ModelError, match="no output 'none' in the file; it has 'row', 'halves'"):
        run(replace(spec, scores="none"))


def test_weights_in_another_file_and_what_is_no_model_are_refused(story: Story) -> None:
    spec = story()
    model = onnx.load(spec.file)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(9, np.float32), "weights"))
    onnx.save(model, spec.file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelError, match="keeps its weights in another file"):
        run(spec)
    spec.file.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"foreign\.onnx: not an ONNX model"):
        run(spec)


def test_a_workload_that_watches_nothing(story: Story) -> None:
    spec = story(workload="tiny.py:Unwatched")
    run(spec)
    assert OnnxModel(runs.model(spec.run)).run(np.zeros((3, 4, 4), np.float32)).monitors.shape == (3, 0)


def test_what_cannot_be_trained_says_what_to_do(story: Story, tmp_path: Path) -> None:
    spec = story()
    with pytest.raises(ConfigError, match=r"has no model\(\) to train; write one, or use `skerry model import`"):
        train(TrainSpec(spec.workload, HERE, spec.datasets, 1, tmp_path / "other"), lambda _: None)
