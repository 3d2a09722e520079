"""Which provider a model runs on, decided from what was measured on this device. Pure.

The fastest that answers the golden inputs rightly. Where a configured accelerator does not, and the CPU must do, that
is a *fall-back*: it is told, and the device is not as it should be until somebody has looked at it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import CPU

SHORT_MS, SHORT_RUNS = 0.5, 8  # a switch of threads under load takes tenths of a millisecond


@dataclass(frozen=True)
class Finding:
    """What one provider did with the golden inputs. Times in milliseconds."""

    provider: str
    fault: str = ""  # why it cannot be used; empty: it can
    max_diff: float = 0.0  # from the golden outputs
    p50_ms: float = 0.0  # of one example
    load_ms: float = 0.0
    batch: int = 1  # examples that are worth running together
    memory_mb: float = 0.0  # that it took to be loaded and to answer


@dataclass(frozen=True)
class Choice:
    """What a model runs on."""

    provider: str
    batch: int
    reason: str
    fallback_from: str = ""  # the accelerator that should have done it
    p50_ms: float = 0.0  # of one example; 0: not measured
    memory_mb: float = 0.0  # likewise


def choose(findings: Sequence[Finding]) -> Choice:
    """The choice; findings in the order of preference. Raises ModelError, with each one's fault, if none will do."""
    usable = [finding for finding in findings if not finding.fault]
    if not usable:
        raise ModelError("; ".join(f"{finding.provider}: {finding.fault}" for finding in findings) or "no provider")
    best = min(usable, key=lambda finding: finding.p50_ms)
    broken = [finding for finding in findings if finding.fault and finding.provider != CPU]
    if best.provider == CPU and broken and all(finding.provider == CPU for finding in usable):
        reason = f"{broken[0].provider}: {broken[0].fault}"
        return Choice(CPU, best.batch, reason, broken[0].provider, best.p50_ms, best.memory_mb)
    others = "".join(f", {one.provider} {one.p50_ms:.3g} ms" for one in usable if one is not best)
    faults = "".join(f"; {one.provider}: {one.fault}" for one in findings if one.fault)
    reason = f"{best.provider} {best.p50_ms:.3g} ms{others}{faults}"
    return Choice(best.provider, best.batch, reason, "", best.p50_ms, best.memory_mb)


def runs_at_once(choice: Choice, cores: int) -> int:
    """How many runs of a model may go on at a time: as many as there are cores.

    A run that is over about as soon as a waiting thread would be woken is worth no wait, unless waiting makes batches.
    """
    short = 0 < choice.p50_ms < SHORT_MS and choice.batch == 1
    return max(cores, SHORT_RUNS) if short else cores


def batch_limit(each_ms: Sequence[tuple[int, float]], gain: float = 0.9) -> int:
    """The most examples that are worth a shared run. ``each_ms``: batch size, ms an example; sizes rising from 1.

    Stops at the first size that does not take at most ``gain`` of the time an example of the one before: a larger batch
    answers its first example later, and must be worth that.
    """
    best = 1
    for (_, before), (size, each) in pairwise(each_ms):
        if each > gain * before:
            break
        best = size
    return best
