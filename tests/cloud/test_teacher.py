from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skerry_cloud import workloads
from skerry_cloud.datasets import UNTOLD
from skerry_cloud.train.teacher import PROOF, teach
from skerry_cloud.workloads import Examples, Workload
from skerry_shared.errors import ConfigError


def workload(name: str) -> Workload:
    return workloads.load(f"tiny.py:{name}", Path(__file__).parent)


def examples(told: int) -> tuple[Examples, NDArray[np.int64]]:
    """The workload's, of which only so many have their label, and all labels."""
    all_of_them = workload("Tiny").examples()
    labels = all_of_them.labels.copy()
    labels[told:] = UNTOLD
    return Examples(all_of_them.inputs, labels), all_of_them.labels


def test_a_proven_teacher_labels_what_it_is_sure_of() -> None:
    given, truth = examples(told=100)
    found, places, note = teach(workload("Taught"), given, 0.95)
    assert np.array_equal(places, np.setdiff1d(np.arange(400), np.arange(100, 400, 4)))
    assert np.array_equal(found.labels, truth[places]) and np.array_equal(found.inputs, given.inputs[places])
    assert note == "teacher right on 75 of 75, labelled 225 others"


@pytest.mark.parametrize(("told", "teacher"), [(PROOF, "Taught"), (100, "Misled"), (0, "Taught")])
def test_a_teacher_that_is_not_borne_out_labels_nothing(told: int, teacher: str) -> None:
    found, places, note = teach(workload(teacher), examples(told)[0], 0.95)
    assert np.array_equal(places, np.arange(told)) and UNTOLD not in found.labels
    assert "so it labels none of" in note


def test_without_a_need_nobody_is_asked() -> None:
    given = workload("Tiny").examples()
    assert teach(workload("Tiny"), given, 0.95)[0] is given


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Tiny", r"tiny: has no teacher\(\); write one, or set retrain.pseudo_labels = 0"),
        ("Logits", "must give probabilities, 400 × 2"),
    ],
)
def test_what_is_missing_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        teach(workload(name), examples(30)[0], 0.95)
