"""A policy for personal data: refused where it does not fit, signed into bundles, and kept by what is learned."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor, nn

from skerry_cloud import datasets, launch, runs, workloads
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.datasets import REFERENCE
from skerry_cloud.release.package import package
from skerry_cloud.specs import AdoptSpec, CompressSpec, TrainSpec, Wanted
from skerry_cloud.train.adopt import work as adopt
from skerry_cloud.train.export import export
from skerry_cloud.workloads import Examples, Workload
from skerry_cloud.workloads.treat import treat
from skerry_shared import bundle, privacy, profiles
from skerry_shared.errors import ConfigError, ModelError
from skerry_shared.privacy import drop, generalise, keep, mask, pseudonym
from skerry_shared.release import ANY, Field, Lineage, TensorSpec

HERE = Path(__file__).parent
PROFILE = "generic-x86-64"

bounds = st.none() | st.integers(0, 100).map(float)
coarse = st.builds(generalise, st.just("x"), st.integers(0, 100).map(float), bounds, bounds)
rows = st.sampled_from(["uint8", "int32", "int64", "float32", "float64"]).flatmap(
    lambda name: hnp.arrays(np.dtype(name), st.tuples(st.integers(1, 20), st.just(3)))
)


@given(
    rows, st.tuples(st.sampled_from([keep("a"), drop("a"), mask("a", 7), pseudonym("a")]), coarse, st.just(keep("c")))
)
def test_a_graph_treats_inputs_as_a_device_does(inputs: NDArray[Any], fields: tuple[Field, ...]) -> None:
    assume(not privacy.fault(fields, TensorSpec("row", inputs.dtype.name, (ANY, 3))))
    found = treat(torch.tensor(inputs), fields).numpy()
    assert found.dtype == inputs.dtype
    np.testing.assert_array_equal(found, privacy.treat(inputs, fields))


class Treating(Workload):
    """Monitors all that it sees."""

    input, returned, monitors = TensorSpec("row", "any", (ANY, 4)), True, tuple("abcd")

    def examples(self) -> Examples:
        raise AssertionError("has none")

    def prepare(self, inputs: Tensor) -> Tensor:
        return inputs.float()

    def watch(self, inputs: Tensor) -> Tensor:
        return inputs.float()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float32"])
def test_the_runtime_treats_inputs_of_every_kind(dtype: str, tmp_path: Path) -> None:
    fields = (keep("a"), mask("b", 7), generalise("c", 10, 0, 90), drop("d"))
    rows = np.random.default_rng(0).uniform(0, 120, (5, 4)).astype(dtype)
    cls = type("Rows", (Treating,), {"policy": fields, "columns": tuple("abcd")})
    export(nn.Identity(), cls(), torch.tensor(rows[:2]), tmp_path / "model.onnx")
    seen = OnnxModel(tmp_path / "model.onnx").run(rows).monitors
    np.testing.assert_array_equal(seen, privacy.treat(rows, fields).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Unknown", "policy: field 'diagnosis' is unknown; columns has reading, age, patient, ward"),
        ("Forgotten", r"policy: nothing is said of field 'ward'; add keep\('ward'\) if it may leave the device"),
        ("Unfit", "policy: field 'patient': action 'encrypt' is unknown; known: keep"),
        ("Nameless", "columns: 3 names; the input's last axis has 4 values, name each"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_by_the_name_of_the_field(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        workloads.load(f"patients.py:{name}", HERE)


def test_without_a_policy_all_is_kept() -> None:
    assert workloads.load("tiny.py:Tiny", HERE).fields() == ()


class Story:
    """A model of the workload's own data, and one that learned from samples as well, each compressed and packed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workload = folder, workloads.load("patients.py:Patients", HERE)
        self.raw = self.workload.examples()
        known, seen = self.raw.take(slice(300)), self.raw.take(slice(300, None))
        first = datasets.create(folder / "data", self.workload, known, [REFERENCE] * 300, created=1.0)
        sent = replace(seen, inputs=privacy.treat(seen.inputs, self.workload.fields(), bytes(32)))
        datasets.create(folder / "data", self.workload, sent, ["device:pump-7"] * 100, first, created=2.0)
        for dataset in (1, 2):
            self._learn(dataset)

    def _learn(self, dataset: int) -> None:
        place = ("patients.py:Patients", HERE, self.folder / "data", dataset, self.run(dataset))
        parent = self.run(1) if dataset == 2 else None
        for module, spec in (
            ("train", TrainSpec(*place, parent)),
            ("compress", CompressSpec(*place, Wanted((PROFILE,)))),
        ):
            asyncio.run(launch.run(f"skerry_cloud.{module}.job", spec, self.folder, lambda _: None))

    def run(self, dataset: int) -> Path:
        return self.folder / f"run{dataset}"

    def pack(self, dataset: int) -> bytes:
        lineage = Lineage(dataset, "00", dataset, "abc")
        return package(self.run(dataset), profiles.load(PROFILE).target(PROFILE), "patients", dataset, lineage)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story"))


def test_the_policy_stands_in_the_bundle_in_the_order_of_the_input(story: Story) -> None:
    manifest = bundle.peek(story.pack(1))
    assert [field.name for field in manifest.fields] == ["reading", "age", "patient", "ward"]
    assert set(manifest.fields) == set(story.workload.policy)
    assert not privacy.fault(manifest.fields, manifest.inputs[0])


def test_golden_inputs_show_no_more_than_samples_do(story: Story, tmp_path: Path) -> None:
    golden = bundle.unpack(story.pack(1), tmp_path / "bundle").golden.inputs["row"]
    assert not golden[:, 2:].any()
    assert set(golden[:, 1]) <= set(range(20, 100, 10))
    assert np.isin(golden[:, 0], story.raw.inputs[:, 0]).all()


def test_an_imported_model_has_the_policy_too_and_is_not_judged_by_what_devices_sent(story: Story) -> None:
    run = story.folder / "imported"
    run.mkdir()
    spec = AdoptSpec("patients.py:Patients", HERE, story.folder / "data", 2, run, runs.model(story.run(1)))
    with pytest.raises(ModelError, match="dataset 2: has samples of devices"):
        adopt(spec, lambda _: None)
    adopt(replace(spec, dataset=1), lambda _: None)
    assert runs.read(runs.Declared, run / runs.DECLARED).fields == story.workload.fields()


def test_a_model_of_its_own_data_looks_at_every_field(story: Story) -> None:
    model = OnnxModel(runs.model(story.run(1)))
    whole, shown = model.run(story.raw.inputs), model.run(privacy.treat(story.raw.inputs, story.workload.fields()))
    assert np.abs(whole.scores - shown.scores).max() > 1e-3
    np.testing.assert_array_equal(whole.monitors[:, 1], story.raw.inputs[:, 3])


def test_a_model_of_samples_answers_raw_inputs_as_it_answers_samples(story: Story) -> None:
    """It learns nothing from what is missing, so that it serves as it was judged."""
    model = OnnxModel(runs.model(story.run(2)))
    raw = story.raw.inputs
    answers = [
        model.run(privacy.treat(raw, fields, key))
        for fields, key in (((), None), (story.workload.fields(), None), (story.workload.fields(), bytes(32)))
    ]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.scores, answers[0].scores)
        np.testing.assert_array_equal(answer.monitors, answers[0].monitors)
    assert (answers[0].scores.argmax(axis=1) == story.raw.labels).mean() > 0.9
