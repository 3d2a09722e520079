import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skerry_edge.infer.engine import LOADS, Active, Engine, Prediction, example_ids
from skerry_shared.errors import InputError, ModelError, NotFoundError, OverloadError, StateError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Target, TensorSpec

pytestmark = pytest.mark.arm64


IMAGE = TensorSpec("image", "uint8", (ANY, 2, 2))
MANIFEST = Manifest(
    "tiny", 1, "tests", ("a", "b"), (IMAGE,), (), Target("p", "x86_64", "onnxruntime", "int8"),
    Measured(1, 1, 1, 0), Lineage(1, "", 1, ""), (), 0.1, "model.onnx",
)  # fmt: skip


class Echo:
    """Answers with its release's number."""

    def __init__(self, release: int) -> None:
        self.release = release

    def run(self, inputs: Tensors) -> Tensors:
        if (inputs["image"] == 255).all():
            raise ModelError("too bright")
        return {"release": np.full(len(inputs["image"]), self.release)}


def active(release: int, seen: list[Any] | None = None) -> Active:
    watch: list[Any] = [] if seen is None else seen
    return Active(replace(MANIFEST, release=release), Echo(release), lambda *answer: watch.append(answer))


def images(count: int) -> dict[str, Any]:
    return {"image": np.zeros((count, 2, 2), np.uint8)}


def test_answers_and_lets_watch() -> None:
    engine, seen = Engine(), list[Any]()
    engine.swap(active(4, seen))
    prediction = engine.predict(images(2))
    assert (prediction.release, prediction.outputs["release"].tolist()) == (4, [4, 4])
    assert prediction.ids == (f"{prediction.prediction_id}.0", f"{prediction.prediction_id}.1")
    assert [answer[0] for answer in seen] == [prediction.ids]


def test_one_example_has_the_predictions_own_id() -> None:
    assert example_ids("p", 1) == ("p",)


def test_without_a_model() -> None:
    with pytest.raises(StateError, match="no model is installed yet"):
        Engine().predict(images(1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"input 'image': missing; expected uint8 \[\*, 2, 2\]"),
        ({"picture": np.zeros(1)}, "input 'picture': unknown; this model takes 'image'"),
        (
            {"image": np.zeros((1, 2, 2))},
            r"input 'image': expected uint8 \[\*, 2, 2\], got float64 \[1, 2, 2\]",
        ),
        ({"image": np.zeros((1, 2, 3), np.uint8)}, r"got uint8 \[1, 2, 3\]"),
        ({"image": np.zeros((2, 2), np.uint8)}, r"got uint8 \[2, 2\]"),
        ({"image": np.zeros((0, 2, 2), np.uint8)}, "at least"),
    ],
)
def test_a_wrong_input_is_named(inputs: dict[str, Any], message: str) -> None:
    engine = Engine()
    engine.swap(active(1))
    with pytest.raises(InputError, match=message):
        engine.predict(inputs)


def test_a_failing_model_is_noticed() -> None:
    engine, failures = Engine(), list[int]()
    engine.swap(replace(active(1), failed=lambda: failures.append(1)))
    with pytest.raises(ModelError):
        engine.predict({"image": np.full((1, 2, 2), 255, np.uint8)})
    assert failures == [1]


def test_swapping_under_load_never_mixes_models() -> None:
    engine, mixed, done = Engine(), list[Prediction](), threading.Event()
    engine.swap(active(1))

    def ask() -> None:
        while not done.is_set():
            prediction = engine.predict(images(1))
            if prediction.outputs["release"].tolist() != [prediction.release]:
                mixed.append(prediction)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for release in range(2, 300):
        engine.swap(active(release))
    done.set()
    for thread in threads:
        thread.join()
    assert mixed == []
    assert engine.predict(images(1)).release == 299


def other(name: str, release: int) -> Active:
    return replace(active(release), manifest=replace(MANIFEST, workload=name, release=release))


def test_several_models_at_once() -> None:
    engine = Engine()
    engine.swap(active(1))
    assert engine.predict(images(1)).release == 1
    engine.swap(other("ear", 7))
    assert engine.predict(images(1), model="tiny").release == 1
    assert engine.predict(images(1), model="ear").release == 7
    assert [manifest.workload for manifest in engine.manifests()] == ["ear", "tiny"]
    engine.swap(other("ear", 8))
    assert engine.predict(images(1), model="ear").release == 8
    with pytest.raises(NotFoundError, match="'nose': not here; this device serves 'ear', 'tiny'"):
        engine.predict(images(1), model="nose")


def test_of_several_models_one_must_be_named() -> None:
    engine = Engine()
    engine.swap(active(1))
    engine.swap(other("ear", 7))
    with pytest.raises(InputError, match="model: name one of 'ear', 'tiny'"):
        engine.predict(images(1))
    engine.drop("tiny")
    engine.drop("nose")
    assert engine.predict(images(1)).release == 7
    engine.drop("ear")
    assert engine.manifest("ear") is None and engine.manifests() == []
    with pytest.raises(StateError, match="no model is installed yet"):
        engine.predict(images(1))


def test_loads_outlive_a_replacement_and_are_bounded() -> None:
    engine = Engine()
    engine.swap(other("ear", 1))
    engine.swap(active(1))
    engine.loads()["tiny", 1].shed += 1
    for release in range(2, LOADS + 10):
        engine.swap(active(release))
    assert len(engine.loads()) == LOADS + 3 and ("ear", 1) in engine.loads() and ("tiny", 1) not in engine.loads()
    engine.swap(active(LOADS))
    assert len(engine.loads()) <= LOADS + 3


def test_low_priority_is_shed_while_the_device_is_under_strain() -> None:
    engine = Engine()
    engine.swap(active(1))
    engine.serve_from(0)
    with pytest.raises(OverloadError, match="low priority"):
        engine.predict(images(1), priority=-1)
    assert engine.predict(images(1)).release == 1
    engine.serve_from(-math.inf)
    assert engine.predict(images(1), priority=-1).release == 1
    assert engine.loads()["tiny", 1].shed == 1
