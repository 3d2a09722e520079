"""Export to .tflite, in float and in integers, and on to a device's own answer. Needs the extra tflite-export."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.adapters import litert_model, models
from skerry_cloud.compress.measure import exam
from skerry_cloud.datasets import REFERENCE, TEST, TRAIN
from skerry_cloud.passes import Material
from skerry_cloud.release.package import package
from skerry_cloud.specs import AdoptSpec, TrainSpec
from skerry_cloud.train import fit
from skerry_cloud.train.adopt import work as adopt
from skerry_cloud.train.job import work as train
from skerry_cloud.train.tflite import Tflite
from skerry_edge.infer.measure import Job, measure
from skerry_edge.infer.models import load_model
from skerry_edge.update.probe import probe
from skerry_shared import bundle, profiles
from skerry_shared.errors import ModelError
from skerry_shared.release import Lineage

HERE = Path(__file__).parent
NEEDED = "pip install 'skerry[tflite-export]'"


class Story:
    """A trained run of digits, and its networks as .tflite."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.workload = folder, folder / "run", workloads.load("digits", folder)
        examples = self.workload.examples()
        self.version = datasets.create(
            folder / "data", self.workload, examples, [REFERENCE] * len(examples), created=1.0
        )
        train(TrainSpec("digits", folder, folder / "data", 1, self.run), lambda _: None)
        self.rows = self.version.read()
        self.test = self.rows.of(TEST).examples
        self.files = {integer: self._convert(integer) for integer in (False, True)}

    def _convert(self, integer: bool) -> Path:
        learned = self.rows.of(TRAIN).examples
        material = Material(
            self.workload, learned, np.zeros(len(learned), np.bool_), learned.inputs[:128],
            teacher=lambda _: np.empty(0, np.float32), say=lambda *_: None,
        )  # fmt: skip
        path = self.folder / f"{'int8' if integer else 'float32'}.tflite"
        Tflite(integer)(self.run / runs.WEIGHTS, path, material)
        return path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    pytest.importorskip("litert_torch", reason=NEEDED)
    return Story(tmp_path_factory.mktemp("tflite"))


def test_the_float_file_answers_held_out_data_as_pytorch_does(story: Story) -> None:
    network = story.workload.model().eval()
    network.load_state_dict(torch.load(story.run / runs.WEIGHTS, weights_only=True))
    answers = models.load(story.files[False]).run(story.test.inputs)
    assert np.abs(answers.scores - fit.answer(network, story.workload, story.test.inputs)).max() < 1e-5
    watched = story.workload.watch(torch.tensor(story.test.inputs)).numpy()
    np.testing.assert_allclose(answers.monitors, watched, atol=1e-5)


def test_the_integer_file_is_small_and_as_right(story: Story) -> None:
    def accuracy(path: Path) -> float:
        return float((models.load(path).run(story.test.inputs).scores.argmax(1) == story.test.labels).mean())

    assert accuracy(story.files[True]) > accuracy(story.files[False]) - 0.02
    assert story.files[True].stat().st_size < 0.5 * story.files[False].stat().st_size
    tensors = litert_model.read(story.files[True]).subgraphs[0].tensors
    weights = [tensor for tensor in tensors if len(tensor.shape) == 4 and tensor.buffer and tensor.shape[0] > 1]
    assert any(litert_model.dtype(tensor) == "int8" for tensor in weights)
    exact = models.load(story.files[False]).run(story.test.inputs[:20]).monitors
    assert np.array_equal(models.load(story.files[True]).run(story.test.inputs[:20]).monitors, exact)


def test_a_file_tells_nothing_of_the_code_that_made_it(story: Story) -> None:
    for path in story.files.values():
        assert b"skerry_cloud" not in path.read_bytes() and b"/" + b"work" not in path.read_bytes()


@pytest.mark.parametrize("integer", [False, True])
def test_a_device_takes_it_and_answers(story: Story, tmp_path: Path, integer: bool) -> None:
    profile = f"litert-x86-64{'' if integer else '-float'}"
    target = profiles.load("litert-x86-64").target("litert-x86-64")
    target = type(target)(profile, target.arch, target.runtime, "int8" if integer else "float32", target.memory_bytes)
    variant = runs.variant(story.run, target.kind)
    variant.folder.mkdir(parents=True)
    shutil.copyfile(story.files[integer], variant.model)
    tested = exam(story.workload, story.rows, story.run / runs.MODEL)
    report = tested.report(variant, "tflite", tested.weigh(variant.model, variant.model, "tflite"))
    runs.write(variant.folder / runs.REPORT, report)
    data = package(story.run, target, "digits", 1, Lineage(1, "aa", 1, "abc"))
    unpacked = bundle.unpack(data, tmp_path / "slot")
    assert unpacked.model.name == "model.tflite"
    assert not measure(Job(str(tmp_path / "slot"), "cpu", 1, str(tmp_path), 1 << 30)).fault
    model = load_model(unpacked, 1)
    assert probe(model, unpacked) <= report.tolerance
    found = model.run({"picture": story.test.inputs})["scores"].argmax(1)
    assert (found == story.test.labels).mean() > 0.9


def test_a_foreign_file_is_imported_under_the_workloads_names(story: Story, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.tflite"
    model = litert_model.read(story.files[True])
    model.signatureDefs = None
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name = "pixels"
    scores, monitors = (int(index) for index in graph.outputs)
    graph.tensors[scores].name, graph.tensors[monitors].name = "probabilities", "monitors"
    litert_model.write(model, foreign)
    spec = AdoptSpec("digits", tmp_path, story.folder / "data", 1, tmp_path / "run", foreign)
    said: list[str] = []
    spec.run.mkdir()
    adopt(spec, lambda progress: said.append(progress.note))
    assert "'pixels' is called 'picture'; 'probabilities' is called 'scores'" in said
    assert runs.model(spec.run).name == "model.tflite"
    assert runs.read(runs.Metrics, spec.run / runs.METRICS).overall["accuracy"] > 0.9


def test_what_cannot_be_monitored_is_refused(story: Story, tmp_path: Path) -> None:
    model = litert_model.read(story.files[False])
    litert_model.signature(
        model, {"picture": int(model.subgraphs[0].inputs[0])}, {"scores": int(model.subgraphs[0].outputs[0])}
    )
    litert_model.write(model, tmp_path / "mute.tflite")
    spec = AdoptSpec("digits", tmp_path, story.folder / "data", 1, tmp_path, tmp_path / "mute.tflite")
    with pytest.raises(ModelError, match=r"monitors: the file has no output of that name.*monitors = \(\)"):
        adopt(spec, lambda _: None)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\0\0\0\0TFL3")
    with pytest.raises(ModelError, match=r"pip install 'skerry\[tflite\]'"):
        models.load(path)
