"""E-detectors side by side: a row a stream or pool of streams, a column an alternative of ``tilts``.

Each is of Shiryaev-Roberts type: R ← (R + dt)·L, where dt is the time that a window adds and L its evidence. While
nothing changes the mean of R is at most the time watched, so an alarm at R ≥ T comes after a time of T on average, at
least. That holds for any weighted mean of them, over alternatives, channels, devices and groups, whatever their
dependence, however long windows are and however late they come (Shin, Ramdas, Rinaldo: E-detectors, arXiv:2203.03532;
on multinomials: Lindon, Malek: Anytime-valid inference for multinomial count data, arXiv:2011.03567).

That is as true as L's mean is 1. A device's is on average over what its reference leaves open (see ``tilts``), and what
chance explains is taken from R as a whole, by the values since the likeliest change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.tilts import Floats

K = TypeVar("K")
Places = NDArray[np.int64]

NO_TIME = 1e-300  # seconds; its logarithm is a number
STATE = (
    "log_r", "cusum", "rise", "began", "fresh", "mark", "span", "statistic", "strongest", "counts", "total",
)  # fmt: skip


class Terms(Protocol):
    """What a device pays for its evidence instead of the charges of each value; see ``tilts``."""

    @property
    def refund(self) -> Floats: ...  # noqa: D102 - J: of the charges, for each value

    def by_chance(self, total: Places, fresh: Floats) -> Floats: ...  # noqa: D102 - (n × K), (n × J) → (n × J)


@dataclass
class Bank(Generic[K]):
    """The rows, by key. R is in seconds."""

    log_weights: Floats  # J
    bins: int  # K
    terms: Terms | None = None  # of a device; a pool has none
    rows: dict[K, int] = field(default_factory=dict)
    log_r: Floats = field(init=False)  # rows × J
    cusum: Floats = field(init=False)  # rows × J: log of the evidence since the likeliest change, as pools have it
    rise: Floats = field(init=False)  # rows × J: the same, as R has it
    began: Floats = field(init=False)  # rows × J: Unix seconds of that change
    fresh: Floats = field(init=False)  # rows × J: values since it
    mark: Floats = field(init=False)  # rows: Unix seconds until when there were windows
    span: Floats = field(init=False)  # rows: seconds of the last window
    statistic: Floats = field(init=False)  # rows: log of the mean R
    strongest: Places = field(init=False)  # rows: the alternative that speaks loudest
    counts: Places = field(init=False)  # rows × K: since the evidence for that one began
    total: Places = field(init=False)  # rows × K: of all windows

    def __post_init__(self) -> None:
        """No rows yet."""
        alternatives = len(self.log_weights)
        self.log_r, self.cusum, self.rise, self.began, self.fresh = (np.empty((0, alternatives)) for _ in range(5))
        self.mark, self.span, self.statistic = (np.empty(0) for _ in range(3))
        self.strongest = np.empty(0, np.int64)
        self.counts, self.total = (np.empty((0, self.bins), np.int64) for _ in range(2))

    def row(self, key: K) -> int:
        """The row of ``key``, a fresh one if there is none yet."""
        if key not in self.rows:
            place = self.rows[key] = len(self.rows)
            if place == len(self.statistic):
                self._grow(max(8, place))
            self.mark[place] = -np.inf
            self.reset(key)
        return self.rows[key]

    def remove(self, key: K) -> None:
        """Have no such row; the last one takes its place."""
        place = self.rows.pop(key)
        if place < (last := len(self.rows)):
            moved = next(other for other, row in self.rows.items() if row == last)
            self.rows[moved] = place
            for name in STATE:
                getattr(self, name)[place] = getattr(self, name)[last]

    def reset(self, key: K) -> None:
        """Forget what was seen, if there is such a row."""
        place = self.rows.get(key)
        if place is not None:
            self.log_r[place], self.began[place] = -np.inf, np.nan
            self.cusum[place], self.rise[place], self.fresh[place] = 0.0, 0.0, 0.0
            self.total[place], self.counts[place] = 0, 0
            self.statistic[place], self.strongest[place] = -np.inf, 0

    def take(self, places: Places, gains: Floats, counts: Places, starts: Floats, ends: Floats) -> None:
        """A window of each row in ``places`` (n of them, 1 at least, each once): log L (n × J), counts (n × K), start
        and end (n)."""
        rows = _rows(places)
        mark, rise, size = self.mark[rows], self.rise[rows], counts.sum(axis=1)[:, None]
        goes_on = rise > 0
        credit = np.log(np.maximum(ends - np.maximum(mark, starts), NO_TIME))  # a window that came late adds none
        fresh, total = self.fresh[rows] * goes_on + size, self.total[rows] + counts
        eager = gains + size * self.terms.refund if self.terms else gains
        log_r = log_add(self.log_r[rows], credit[:, None]) + eager
        weighed = log_r + self.log_weights
        if self.terms:
            weighed -= self.terms.by_chance(total, fresh)
        self.log_r[rows], self.rise[rows] = log_r, np.maximum(rise, 0.0) + eager
        self.cusum[rows] = np.maximum(self.cusum[rows], 0.0) + gains
        self.began[rows] = np.where(goes_on, self.began[rows], starts[:, None])
        self.fresh[rows], self.total[rows] = fresh, total
        self.mark[rows], self.span[rows] = np.maximum(mark, ends), ends - starts
        self.statistic[rows], self.strongest[rows] = log_sum(weighed), weighed.argmax(axis=1)
        lasts = self.since(places) < starts
        self.counts[rows] = counts + self.counts[rows] * lasts[:, None]

    @property
    def width(self) -> int:
        """J."""
        return len(self.log_weights)

    def highest(self) -> float:
        """Of all rows' statistics."""
        return float(self.statistic[: len(self.rows)].max(initial=-np.inf))

    def best(self, key: K) -> int:
        """The alternative that the evidence of this row is strongest for."""
        return int(self.strongest[self.rows[key]])

    def since(self, places: Places) -> Floats:
        """Start of the window where the evidence for each row's strongest alternative began."""
        began: Floats = self.began[places, self.strongest[places]]
        return began

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that ``load`` needs beside the keys."""
        return {name: getattr(self, name)[: len(self.rows)] for name in STATE}

    def load(self, keys: Sequence[K], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Undo ``arrays``: the rows of these keys, in this order."""
        self.rows = {key: place for place, key in enumerate(keys)}
        for name in STATE:
            setattr(self, name, arrays[name].copy())

    def _grow(self, by: int) -> None:
        for name in STATE:
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((by, *array.shape[1:]), array.dtype)]))


def _rows(places: Places) -> slice | Places:
    """The same rows; as a slice, which copies nothing, where one follows the other."""
    return slice(places[0], places[-1] + 1) if (np.diff(places) == 1).all() else places


def log_add(log_r: Floats, credit: Floats) -> Floats:
    """As ``np.logaddexp``, in half its time; one of both may be minus infinity."""
    apart = np.abs(log_r - credit)
    total: Floats = np.log1p(np.exp(-apart))
    total += np.maximum(log_r, credit)
    return total


def log_sum(log_r: Floats) -> Floats:
    """(..., J) → (...): log of the sum of exp over the last axis."""
    highest = log_r.max(axis=-1, initial=-np.inf)
    finite = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):  # all R are 0 before the first window
        total: Floats = finite + np.log(np.exp(log_r - finite[..., None]).sum(axis=-1))
    return total
