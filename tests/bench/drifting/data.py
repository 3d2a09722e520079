"""Real values, and what happens to them. Everything is drawn with a seed.

Wind turbines at La Haute Borne (ENGIE open data, in openoa's wheel), US employment (in nannyml's), image segments and
phishing (UCI, in river's), Fashion-MNIST (Debian package). What is not here is left out with a notice.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as parquet
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from skerry_cloud.workloads import vision
from skerry_cloud.workloads.fashion import Fashion

Values = NDArray[np.float64]
Change = Callable[[Values, Values, np.random.Generator], Values]  # (values n × C, position from 0 to 1, random)

WINDOW, WINDOWS, ONSET = 25, 120, 40  # values a window, windows a stream, window where the change comes
REFERENCE = 1000  # values
REFERENCES = 5  # different ones; streams take turns


@dataclass(frozen=True)
class Case:
    """A change of a data set; ``devices``: the columns are devices with one value each, not the values of one."""

    name: str
    source: str
    change: Change
    devices: int = 0


@dataclass(frozen=True)
class Streams:
    """References (R × n × C), quiet and changed streams (S × values × C); stream s belongs to reference s % R."""

    references: Values
    quiet: Values
    changed: Values


def sources(folder: Path) -> dict[str, Callable[[], Values]]:
    """Rows × columns of every data set whose files are below ``folder`` or on this machine."""
    found: dict[str, Callable[[], Values]] = {}
    wind = next(folder.glob("**/la_haute_borne.zip"), None)
    jobs = next(folder.glob("**/employment_MA.pq"), None) or next(folder.glob("**/*employment*.p*q*"), None)
    segments = next(folder.glob("**/segment.csv.zip"), None)
    if wind:
        found["wind"] = lambda: _wind(wind)
    if jobs:
        found["employment"] = lambda: _employment(jobs)
    if segments:
        found["segments"] = lambda: _segments(segments)
    if Fashion.folder.is_dir():
        found |= {"pictures": _pictures, "classes": _classes}
    return found


def draw(values: Values, case: Case, seed: int, quiet: int, changed: int) -> Streams:
    """References and streams, resampled from all rows: independent, and of one law until the change."""
    random = np.random.default_rng(seed)
    size = WINDOW * WINDOWS
    position = np.clip((np.arange(size) - ONSET * WINDOW) / (size - ONSET * WINDOW), 0, 1)

    def sample(count: int, length: int) -> Values:
        if case.devices:
            return np.asarray(values[random.integers(0, len(values), (count, length, case.devices)), 0])
        return np.asarray(values[random.integers(0, len(values), (count, length))])

    streams = sample(changed, size)
    for stream in streams:
        stream[ONSET * WINDOW :] = case.change(stream, position, random)[ONSET * WINDOW :]
    return Streams(sample(REFERENCES, REFERENCE), sample(quiet, size), streams)


def _moved(by: float, columns: slice = slice(None)) -> Change:
    """Columns of values move by so many of their standard deviations, suddenly."""

    def change(values: Values, _: Values, random: np.random.Generator) -> Values:
        moved = values.copy()
        moved[:, columns] += by * values[:, columns].std(axis=0)
        return moved

    return change


def _ramp(values: Values, position: Values, _: np.random.Generator) -> Values:
    return np.asarray(values + position[:, None] * values.std(axis=0))


def _saturated(values: Values, _: Values, __: np.random.Generator) -> Values:
    limits = np.quantile(values, 0.9, axis=0)
    return np.concatenate([np.minimum(values[:, :1], limits[:1]), values[:, 1:]], axis=1)


def _stuck(values: Values, _: Values, __: np.random.Generator) -> Values:
    """One sensor holds its value for 10 readings of 40."""
    held, place = values.copy(), np.arange(len(values))
    holds = place % 40 < 10
    held[holds, 0] = values[place[holds] // 40 * 40, 0]
    return held


def _relabelled(values: Values, _: Values, random: np.random.Generator) -> Values:
    """An eighth of the traffic becomes one class: rows that a model takes for it, with the confidence that it has."""
    shifted, of_class = values.copy(), values[values[:, 0] == 3]
    moves = random.random(len(values)) < 0.12
    shifted[moves] = of_class[random.integers(0, len(of_class), moves.sum())]
    return shifted


def _corrupted(values: Values, _: Values, random: np.random.Generator) -> Values:
    """The rows of ``_pictures`` hold the monitors of each picture as it is, then as a smeared lens shows it."""
    smeared = random.random(len(values)) < 0.15
    half = values.shape[1] // 2
    return np.concatenate([np.where(smeared[:, None], values[:, half:], values[:, :half]), values[:, half:]], axis=1)


CASES = (
    Case("sudden", "wind", _moved(0.3)),
    Case("gradual", "wind", _ramp),
    Case("single device", "wind", _moved(0.4, slice(0, 1)), devices=10),
    Case("single feature", "segments", _moved(0.25, slice(4, 5))),
    Case("saturation", "wind", _saturated),
    Case("stuck", "employment", _stuck),
    Case("image corruption", "pictures", _corrupted),
    Case("label shift", "classes", _relabelled),
)


def visible(case: Case, values: Values) -> Values:
    """The columns that detectors may see."""
    return values[..., : values.shape[-1] // 2] if case.source == "pictures" else values


def _wind(path: Path) -> Values:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if "data-2014-2015" in name)
        table = csv.read_csv(io.BytesIO(archive.read(name)))
    columns = [_numbers(table[name]) for name in ("Ws_avg", "Ot_avg", "P_avg")]
    rows = np.column_stack(columns)
    return rows[np.isfinite(rows).all(axis=1) & (rows[:, 2] > 0)]


def _employment(path: Path) -> Values:
    table = parquet.read_table(path)
    rows = np.column_stack([_numbers(table[name]) for name in ("AGEP", "SCHL", "WKHP") if name in table.column_names])
    random = np.random.default_rng(0)
    return np.nan_to_num(rows) + random.random(rows.shape)  # years and hours become readings with decimals


def _segments(path: Path) -> Values:
    with zipfile.ZipFile(path) as archive:
        table = csv.read_csv(io.BytesIO(archive.read(archive.namelist()[0])))
    rows = np.column_stack([_numbers(table[name]) for name in table.column_names if name != "category"][2:12])
    return rows[:, rows.std(axis=0) > 0]


def _numbers(column: Any) -> Values:
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _pictures() -> Values:
    pictures = Fashion().field().inputs
    smeared = ndimage.gaussian_filter(pictures.astype(float), (0, 0.8, 0.8))
    return np.concatenate([_watched(pictures), _watched(smeared)], axis=1)


def _watched(pictures: NDArray[Any]) -> Values:
    watched = vision.watch(torch.as_tensor(pictures.astype(np.float32) / 255))
    return watched.numpy().astype(np.float64)


def _classes() -> Values:
    """Predicted class and confidence of a small classifier on pictures that it did not learn."""
    data, field = Fashion().examples(), Fashion().field()
    flat = data.inputs[:6000].reshape(6000, -1) / 255
    pca = PCA(30, random_state=0).fit(flat)
    model = LogisticRegression(max_iter=200).fit(pca.transform(flat), data.labels[:6000])
    scores = model.predict_proba(pca.transform(field.inputs.reshape(len(field.inputs), -1) / 255))
    return np.column_stack([scores.argmax(axis=1), scores.max(axis=1)]).astype(np.float64)


def skipped(available: Mapping[str, Any]) -> list[str]:
    """Names of the cases whose data are not here."""
    return [case.name for case in CASES if case.source not in available]
