from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from skerry_cloud import workloads
from skerry_cloud.workloads import Examples, vision
from skerry_cloud.workloads.digits import Digits
from skerry_cloud.workloads.fashion import Fashion
from skerry_shared import plugins
from skerry_shared.errors import ConfigError, InputError, NotFoundError

HERE = Path(__file__).parent


def test_a_workload_is_found_by_name_and_by_path() -> None:
    assert workloads.load("digits", HERE).name == "digits"
    assert workloads.load("tiny.py:Tiny", HERE).name == "tiny"
    assert workloads.load("cloud/tiny.py:Tiny", HERE.parent).labels == ("left", "right")
    assert {"digits", "fashion"} <= set(plugins.names(workloads.GROUP))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("fashon", NotFoundError, "fashion"),
        ("nowhere.py:Tiny", NotFoundError, "no file .*nowhere.py"),
        ("tiny.py", ConfigError, "say which class, as in 'tiny.py:MyWorkload'"),
        ("tiny.py:Huge", NotFoundError, "tiny.py has no class 'Huge'"),
        ("tiny.py:NOT_A_CLASS", ConfigError, "not a subclass"),
        ("tiny.py:Unfinished", ConfigError, "missing examples"),
        ("tiny.py:Ownerless", ConfigError, "owner must be a str"),
        ("tiny.py:Rigid", ConfigError, "only the first dimension may be free"),
        ("tiny.py:Single", ConfigError, "labels: at least two"),
    ],
)
def test_what_is_no_workload_is_refused_with_the_reason(name: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        workloads.load(name, HERE)


def test_an_error_in_the_users_file_is_told_as_theirs(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import not_installed_at_all\n")
    with pytest.raises(ConfigError, match="ModuleNotFoundError: No module named 'not_installed_at_all'"):
        workloads.load("broken.py:Any", tmp_path)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), [0, 1], "inputs: dtype is float32, expected uint8"),
        (np.zeros((2, 4, 5), np.uint8), [0, 1], r"inputs: shape is \(4, 5\), expected \(4, 4\)"),
        (np.zeros((2, 4, 4), np.uint8), [0], r"labels: got int64 \(1,\), expected int64 \(2,\)"),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0], "labels: got float64"),
        (np.zeros((2, 4, 4), np.uint8), [0, 2], "labels: 2 is not one of the 2"),
        (np.zeros((2, 4, 4), np.uint8), [0, -1], "labels: -1 is not one"),
    ],
)
def test_validation_names_the_offending_field(inputs: NDArray[Any], labels: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=f"tiny: {message}"):
        workloads.load("tiny.py:Tiny", HERE).validate(Examples(inputs, np.array(labels)))


def test_digits_are_what_they_declare_and_keep_the_field_apart() -> None:
    digits = Digits()
    learned, field = digits.examples(), digits.field()
    digits.validate(learned)
    digits.validate(field)
    assert (len(learned), len(field)) == (1437, 360)
    assert learned.inputs.max() == 255
    assert set(learned.labels) == set(range(10))


def test_fashion_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fashion, "folder", tmp_path)
    with pytest.raises(NotFoundError, match="sudo apt-get install dataset-fashion-mnist"):
        Fashion().examples()


@pytest.mark.skipif(not Fashion.folder.is_dir(), reason="Debian package dataset-fashion-mnist is not installed")
def test_fashion_is_what_it_declares() -> None:
    field = Fashion().field()
    Fashion().validate(field)
    assert np.bincount(field.labels).tolist() == [1000] * 10


def test_the_monitors_tell_blur_noise_and_poor_contrast_apart() -> None:
    pictures = Digits().field().inputs / 255.0
    noise = np.random.default_rng(0).normal(0, 0.2, pictures.shape)
    clean = _watch(pictures)
    blurred, noisy, flat = (
        _watch(gaussian_filter(pictures, (0, 1, 1))), _watch(pictures + noise), _watch(pictures * 0.4 + 0.3)
    )  # fmt: skip
    assert blurred["sharpness"] < clean["sharpness"] / 2
    assert noisy["noise"] > clean["noise"] * 1.2
    assert flat["contrast"] == pytest.approx(clean["contrast"] * 0.4, rel=1e-3)
    assert flat["brightness"] == pytest.approx(clean["brightness"] * 0.4 + 0.3, rel=1e-3)


def test_by_default_mean_and_spread_are_watched() -> None:
    pictures = torch.tensor([[[0, 0], [255, 255]]], dtype=torch.uint8)
    watched = workloads.load("tiny.py:Tiny", HERE).watch(pictures)
    assert watched.tolist() == [[127.5, pytest.approx(147.22, rel=1e-3)]]


def test_metrics_weigh_rare_labels() -> None:
    scores = np.array([[0.9, 0.1]] * 4, np.float32)
    metrics = workloads.load("tiny.py:Tiny", HERE).metrics(scores, np.array([0, 0, 0, 1]))
    assert metrics == {"accuracy": 0.75, "macro recall": 0.5}


def _watch(pictures: NDArray[np.float64]) -> dict[str, float]:
    watched = vision.watch(torch.tensor(pictures, dtype=torch.float32)).mean(0)
    return dict(zip(vision.MONITORS, watched.tolist(), strict=True))
