"""Runs in a peer's own environment: python peer.py PEER IN.npz OUT.npz. Scores of each of its detectors on each stream.

IN: ``references`` (R × n × C), ``streams`` (S × values × C), ``window``. OUT: one array a detector, S × windows: the
higher, the more it says that the stream drifted. Stream s belongs to reference s % R. Batch detectors look at the
newest window, and at the newest 2, 8 and 32 of them; of several columns the one that says most counts.

Frouros' KS and CVM are left out: they call the same functions of SciPy as Alibi Detect's.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]
Test = Callable[[Values], float]  # of new values of one column
Score = Callable[[Values], Test]  # from that column's reference
Found = dict[str, Values]

SPANS = (1, 2, 8, 32)  # windows that a batch detector looks at


def batch(score: Score, references: Values, streams: Values, window: int) -> dict[int, Values]:
    """Scores by the number of windows that were looked at."""
    found = {span: np.zeros((len(streams), streams.shape[1] // window)) for span in SPANS}
    columns = streams.shape[2]
    fitted = [[score(reference[:, column]) for column in range(columns)] for reference in references]
    for place, stream in enumerate(streams):
        tests = fitted[place % len(references)]
        for span, scores in found.items():
            for at in range(span - 1, scores.shape[1]):
                new = stream[(at + 1 - span) * window : (at + 1) * window]
                scores[place, at] = max(test(new[:, column]) for column, test in enumerate(tests))
    return found


def batches(detectors: Mapping[str, Score], references: Values, streams: Values, window: int) -> Found:
    return {
        f"{name}, {span} windows": scores
        for name, score in detectors.items()
        for span, scores in batch(score, references, streams, window).items()
    }


def evidently(references: Values, streams: Values, window: int) -> Found:
    import pandas as pd
    from evidently.legacy.calculations.stattests import psi_stat_test
    from evidently.legacy.core import ColumnType

    def score(reference: Values) -> Test:
        known = pd.Series(reference)
        return lambda new: float(psi_stat_test.func(known, pd.Series(new), ColumnType.Numerical, 0.1)[0])

    return batches({"PSI": score}, references, streams, window)


def frouros(references: Values, streams: Values, window: int) -> Found:
    from frouros.detectors.data_drift import EMD, PSI

    def of(detector: Any) -> Score:
        def score(reference: Values) -> Test:
            spread = reference.std() + 1e-12  # so that columns can be compared
            fitted = detector()
            fitted.fit(X=reference / spread)
            return lambda new: float(fitted.compare(X=new / spread)[0].distance)

        return score

    return batches({"PSI": of(PSI), "EMD": of(EMD)}, references, streams, window)


def river(references: Values, streams: Values, window: int) -> Found:
    from river.drift import ADWIN, PageHinkley

    windows = streams.shape[1] // window
    grid = [0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-6, 1e-9]
    adwin, page = (np.zeros((len(streams), windows)) for _ in range(2))
    for place, stream in enumerate(streams):
        reference = references[place % len(references)]
        mean, spread = reference.mean(axis=0), reference.std(axis=0) + 1e-12
        for column in range(stream.shape[1]):
            values = ((stream[:, column] - mean[column]) / spread[column]).tolist()
            known = ((reference[:, column] - mean[column]) / spread[column]).tolist()
            detector = PageHinkley(delta=0.05, threshold=1e12)
            for value in known:
                detector.update(value)
            for at, value in enumerate(values):
                detector.update(value)
                up = detector._sum_increase - detector._min_increase
                down = detector._max_decrease - detector._sum_decrease
                page[place, at // window] = max(page[place, at // window], up, down)
            for delta in grid:
                detector = ADWIN(delta=delta)
                for value in known:
                    detector.update(value)
                for at, value in enumerate(values):
                    detector.update(value)
                    if detector.drift_detected:
                        adwin[place, at // window] = max(adwin[place, at // window], -np.log10(delta))
    return {"PageHinkley": page, "ADWIN": adwin}


def alibi_detect(references: Values, streams: Values, window: int) -> Found:
    """Its online detectors take minutes to set themselves up for one reference, so these are its batch ones."""
    from alibi_detect.cd import CVMDrift, KSDrift

    def of(kind: Any) -> Score:
        def score(reference: Values) -> Test:
            detector = kind(reference[:, None].astype(np.float32), p_val=0.05)
            return lambda new: float(detector.feature_score(detector.x_ref, new[:, None].astype(np.float32))[1].max())

        return score

    return batches({"KS": of(KSDrift), "CVM": of(CVMDrift)}, references, streams, window)


def main() -> None:
    warnings.filterwarnings("ignore")
    name, given, out = sys.argv[1:]
    with np.load(given) as arrays:
        found = globals()[name](arrays["references"], arrays["streams"], int(arrays["window"]))
    np.savez(out, **found)


if __name__ == "__main__":
    main()
