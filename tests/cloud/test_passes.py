"""Every pass keeps the contract, and a recipe's text is its name."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skerry_cloud import passes, workloads
from skerry_cloud.adapters import models
from skerry_cloud.compress import graphs
from skerry_cloud.compress.passes.dynamic import Dynamic, Weights
from skerry_cloud.compress.passes.graph import Half, Slim
from skerry_cloud.compress.passes.static import Int8
from skerry_cloud.compress.passes.tensorrt import TensorRt
from skerry_cloud.examples import Examples
from skerry_cloud.passes import Form, Material, Pass
from skerry_cloud.testing import check_pass, material
from skerry_cloud.train import networks
from skerry_cloud.train.distil import Distil, Tune, divergence
from skerry_cloud.train.export import Onnx, export
from skerry_cloud.train.prune import Prune
from skerry_cloud.train.quantise import Qat
from skerry_shared import plugins
from skerry_shared.errors import ConfigError, ModelError, NotFoundError

HERE = Path(__file__).parent
PASSES: tuple[Pass, ...] = (
    Distil(0.5, epochs=1), Tune(epochs=1), Prune(0.5), Qat(epochs=1, bits=7), Onnx(), Int8("x86_64"),
    Int8("aarch64", "minmax"), Int8("x86_64", "entropy", spare=1), Dynamic(), Weights(8), Weights(4), Half(), Slim(),
    TensorRt(),
)  # fmt: skip


@pytest.fixture(scope="module")
def stuff() -> Material:
    return material(workloads.load("tiny.py:Tiny", HERE))


@pytest.fixture(scope="module")
def sources(stuff: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[Form, Path]:
    folder = tmp_path_factory.mktemp("sources")
    torch.manual_seed(0)
    network = stuff.workload.model().eval()
    found: dict[Form, Path] = {"network": folder / "model.pt", "onnx": folder / "model.onnx"}
    networks.write(network, found["network"])
    export(network, stuff.workload, torch.tensor(stuff.train.inputs[:2]), found["onnx"])
    return found


@pytest.mark.parametrize("step", PASSES, ids=lambda step: passes.spell((step,)))
def test_every_pass_keeps_the_contract(step: Pass, sources: dict[Form, Path], stuff: Material) -> None:
    check_pass(step, sources[step.takes], stuff)


def test_no_pass_of_ours_is_left_out() -> None:
    registered = {name: plugins.load(passes.GROUP, name) for name in plugins.names(passes.GROUP)}
    ours = {name for name, step in registered.items() if step.__module__.startswith("skerry_cloud.")}
    assert ours == {step.name for step in PASSES} | {"tflite", "keep"}  # these need an extra: see test_tflite


@dataclass(frozen=True)
class Careless(Slim):
    """Breaks what the test asks for."""

    fault: str = ""

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        super().__call__(source, target, material)
        if self.fault == "litter":
            target.with_name("notes.txt").write_text("x")
        if self.fault == "source":
            source.write_bytes(target.read_bytes())
        if self.fault == "log":
            logging.getLogger().setLevel(logging.CRITICAL)
        if self.fault == "clock":
            model = onnx.load(target)
            model.doc_string = str(np.random.default_rng().random())
            onnx.save(model, target)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [("litter", "no more"), ("source", "stay as it is"), ("log", "log on as it did"), ("clock", "same bytes")],
)
def test_the_contract_sees_a_breach(
    fault: str, rule: str, sources: dict[Form, Path], stuff: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.WARNING)  # and as it was, in the end
    source = tmp_path / "source.onnx"
    source.write_bytes(sources["onnx"].read_bytes())
    monkeypatch.setattr("skerry_cloud.testing._check_declaration", lambda step: None)
    with pytest.raises(AssertionError, match=rule):
        check_pass(Careless(fault), source, stuff)


def test_a_pass_that_is_not_registered_is_no_pass() -> None:
    @dataclass(frozen=True)
    class Unknown(Slim):
        name: ClassVar[str] = "unknown"

    with pytest.raises(AssertionError, match="entry point"):
        check_pass(Unknown(), Path(), material(workloads.load("tiny.py:Tiny", HERE)))


steps = st.one_of(
    st.builds(Distil, st.floats(0.1, 2), st.integers(1, 99)),
    st.builds(Tune, st.integers(1, 99), st.floats(0.1, 1)),
    st.builds(Prune, st.floats(0.1, 0.9)),
    st.builds(Qat, st.integers(1, 99), st.sampled_from([7, 8])),
)
ends = st.one_of(
    st.builds(Int8, st.sampled_from(["x86_64", "aarch64"]), st.sampled_from(["minmax", "entropy", "percentile"]),
              st.floats(51, 100), st.integers(0, 9)),
    st.builds(Weights, st.sampled_from([4, 8])), st.just(Slim()), st.just(Half()), st.just(Dynamic()),
)  # fmt: skip
recipes = st.builds(
    lambda first, more, rest: (first, *more, Onnx(), *rest),
    st.builds(Distil, st.floats(0.1, 2), st.integers(1, 99)),
    st.lists(steps.filter(lambda step: step.takes == "network"), max_size=3), st.lists(ends, max_size=3),
)  # fmt: skip


@given(recipes)
def test_text_and_recipe_are_the_same(recipe: passes.Recipe) -> None:
    assert passes.parse(passes.spell(recipe)) == recipe


@given(recipes, st.floats(0.01, 1))
def test_a_cut_recipe_differs_in_epochs_alone_and_keeps_one(recipe: passes.Recipe, share: float) -> None:
    small = passes.cut(recipe, share)
    assert passes.cut(recipe, 1) == recipe
    assert [step.name for step in small] == [step.name for step in recipe]
    efforts = [(getattr(a, "epochs", 0), getattr(b, "epochs", 0)) for a, b in zip(small, recipe, strict=True)]
    assert all((cut > 0) == (whole > 0) and cut <= whole and cut >= whole * share for cut, whole in efforts)


def test_a_twin_differs_in_its_architecture_alone() -> None:
    recipe = passes.parse("distil(width=0.5, epochs=2) + onnx + int8(arch='aarch64', spare=1) + slim")
    twin = passes.retarget(recipe, "x86_64")
    assert passes.spell(twin) == passes.spell(recipe).replace("aarch64", "x86_64")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("int8(arch='riscv64')", ConfigError, "no scheme for arch 'riscv64'; known: x86_64, aarch64"),
        ("int8(arhc='x86_64')", ConfigError, "unknown key 'arhc'; did you mean 'arch'?"),
        ("int8", ConfigError, "missing key 'arch'"),
        ("prune(keep=1.5)", ConfigError, "0 < keep < 1"),
        ("qat(epochs=1, bits=4)", ConfigError, "bits 7 or 8"),
        ("shrink", NotFoundError, "no 'shrink'; known: .*distil"),
        ("slim + prune(keep=0.5)", ConfigError, "slim gives onnx, but prune takes network"),
        ("prune(0.5)", ConfigError, "not name"),
        ("slim + ", ConfigError, "not name"),
        ("__import__('os').system('true')", ConfigError, "not name"),
    ],
)
def test_a_slip_in_a_recipe_is_named(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        passes.parse(text)


def test_a_workload_without_students_cannot_be_distilled(
    sources: dict[Form, Path], stuff: Material, tmp_path: Path
) -> None:
    bare = material(workloads.load("tiny.py:Childless", HERE))
    with pytest.raises(ModelError, match="builds no student"):
        Distil(0.5, 1)(sources["onnx"], tmp_path / "model.pt", bare)


def test_a_student_learns_from_the_teacher_and_not_from_wrong_labels(sources: dict[Form, Path], tmp_path: Path) -> None:
    tiny = workloads.load("tiny.py:Tiny", HERE)
    stuff = material(tiny, examples=400)
    wrong = stuff.train.take(slice(None))
    wrong.labels[:] = 1 - wrong.labels
    Distil(1.0, epochs=20)(sources["onnx"], tmp_path / "model.pt", stuff)  # the teacher of ``stuff`` knows the truth
    scores = networks.read(tmp_path / "model.pt", tiny)(tiny.prepare(torch.tensor(stuff.train.inputs)))
    assert float((scores.argmax(1).numpy() == 1 - wrong.labels).mean()) > 0.9


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_divergence_is_zero_for_the_teacher_itself_and_positive_else(labels: int, seed: int) -> None:
    logits = torch.tensor(np.random.default_rng(seed).normal(size=(4, labels)))
    scores = torch.softmax(logits, dim=1)
    assert abs(float(divergence(logits, scores))) < 1e-6
    assert float(divergence(logits.flip(1) + torch.arange(labels), scores)) >= -1e-6


def test_pruning_keeps_labels_and_takes_channels(sources: dict[Form, Path], stuff: Material, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    networks.write(network, tmp_path / "wide.pt")
    Prune(0.5)(tmp_path / "wide.pt", tmp_path / "model.pt", stuff)
    pruned = networks.read(tmp_path / "model.pt", stuff.workload)
    assert [len(weights) for name, weights in pruned.named_parameters() if name.endswith("weight")] == [8, 2]


def test_a_network_that_cannot_be_followed_is_a_model_error(stuff: Material, tmp_path: Path) -> None:
    networks.write(_Odd(), tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="cannot be pruned"):
        Prune(0.5)(tmp_path / "odd.pt", tmp_path / "model.pt", stuff)


class _Odd(nn.Module):
    """Works for one number of channels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.first(inputs.flatten(1))
        if hidden.shape[1] != 16:
            raise RuntimeError("16 of them, please")
        return torch.as_tensor(self.last(hidden))


@pytest.mark.parametrize(("bits", "arch", "largest"), [(7, "x86_64", 64), (8, "aarch64", 127)])
def test_what_was_trained_for_integers_lies_on_their_grid(
    sources: dict[Form, Path], stuff: Material, tmp_path: Path, bits: int, arch: str, largest: int
) -> None:
    Qat(1, bits)(sources["network"], tmp_path / "model.pt", stuff)
    Onnx()(tmp_path / "model.pt", tmp_path / "model.onnx", stuff)
    Int8(arch)(tmp_path / "model.onnx", tmp_path / "int8.onnx", stuff)
    constants = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    parameters = networks.read(tmp_path / "model.pt", stuff.workload).parameters()
    trained = next(each.detach().numpy() for each in parameters if each.dim() == 4)
    (name,) = (name for name, values in constants.items() if values.dtype == np.int8 and values.shape == trained.shape)
    scales = constants[name.replace("_quantized", "_scale")].reshape(-1, 1, 1, 1)
    assert np.abs(constants[name]).max() == largest
    assert np.allclose(constants[name] * scales, trained, atol=1e-6)


def test_training_for_integers_mends_what_they_break(stuff: Material, tmp_path: Path) -> None:
    """A weight of an input that never changes makes the grid so coarse that the others are rounded to nothing."""
    examples = Examples(stuff.train.inputs.copy(), stuff.train.labels)
    examples.inputs[:, 0, 0] = 127
    dull = replace(stuff, train=examples, calibration=examples.inputs)
    layer = nn.Linear(16, 2)
    halves = torch.tensor([[0.3, 0.3, -0.3, -0.3] * 4])
    layer.weight.data = torch.cat([halves, -halves])
    layer.weight.data[:, 0] = 100
    layer.bias.data.zero_()
    networks.write(nn.Sequential(nn.Flatten(), layer), tmp_path / "model.pt")

    def right(recipe: str) -> float:
        source = tmp_path / "model.pt"
        for number, step in enumerate(passes.parse(recipe)):
            target = tmp_path / f"{number}{passes.SUFFIX[step.gives]}"
            step(source, target, dull)
            source = target
        return float((models.load(source).run(examples.inputs).scores.argmax(1) == examples.labels).mean())

    assert right("onnx") > 0.95
    assert right("onnx + int8(arch='aarch64')") < 0.7
    assert right("qat(epochs=20, rate=1.0) + onnx + int8(arch='aarch64')") > 0.95


def test_slim_answers_the_same_from_a_smaller_file(sources: dict[Form, Path], stuff: Material, tmp_path: Path) -> None:
    Int8("x86_64")(sources["onnx"], tmp_path / "int8.onnx", stuff)
    Slim()(tmp_path / "int8.onnx", tmp_path / "slim.onnx", stuff)
    before, after = (models.load(tmp_path / name).run(stuff.calibration) for name in ("int8.onnx", "slim.onnx"))
    assert np.array_equal(before.scores, after.scores)
    assert (tmp_path / "slim.onnx").stat().st_size < 0.9 * (tmp_path / "int8.onnx").stat().st_size


def test_the_spared_operator_is_the_one_that_hurts(sources: dict[Form, Path], stuff: Material, tmp_path: Path) -> None:
    """One weight far out of line makes all others of its channel zero, where each is rounded to a 127th of it."""
    model = onnx.load(sources["onnx"])
    place = next(i for i, tensor in enumerate(model.graph.initializer) if len(tensor.dims) == 4)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[place]).copy()
    weights[:, 0, 0, 0] *= 1000
    model.graph.initializer[place].CopyFrom(onnx.numpy_helper.from_array(weights, model.graph.initializer[place].name))
    onnx.save(model, tmp_path / "model.onnx")
    blamed = Int8("x86_64").blame(tmp_path / "model.onnx", stuff)
    assert [each.harm for each in blamed] == sorted((each.harm for each in blamed), reverse=True)
    assert blamed[0].type == "Conv"
    Int8("x86_64", spare=1)(tmp_path / "model.onnx", tmp_path / "spared.onnx", stuff)
    made = onnx.load(tmp_path / "spared.onnx")
    float_weights = {tensor.name for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert any(node.op_type == "Conv" and node.input[1] in float_weights for node in made.graph.node)


def test_what_rounds_is_known(sources: dict[Form, Path], stuff: Material, tmp_path: Path) -> None:
    def rounds(step: Pass) -> bool:
        step(sources["onnx"], tmp_path / "model.onnx", stuff)
        return graphs.rounds(onnx.load(tmp_path / "model.onnx"))

    assert not rounds(Slim())
    assert [rounds(step) for step in (Int8("x86_64"), Dynamic(), Weights(8), Half())] == [True] * 4
