"""Tries one model on one provider, as a program of its own: ``trial`` starts it, within limits, and reads one line.

Nothing that it does can hurt the agent: it may crash, hang or eat memory.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from skerry_edge.infer.choose import Finding, batch_limit
from skerry_shared import bundle, golden, plugins
from skerry_shared.bundle import Bundle
from skerry_shared.errors import ModelError, SkerryError
from skerry_shared.ports.runtime import CPU, Model, Runtime, Tensors
from skerry_shared.release import ANY

GROUP = "skerry.runtimes"
RUNS, RUNS_S = 200, 1.0  # how often the median is taken over, and seconds that this may take at most
BATCHES = (1, 2, 4, 8, 16)
BATCH_RUNS, BATCH_S = 20, 0.2  # of each size
LEAK_RUNS, LEAK_S = 300, 2.0
LEAK_BYTES = 8 << 20  # in these runs, after RUNS others: caches are full by then
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What to try."""

    folder: str  # an unpacked bundle
    provider: str
    threads: int
    cache: str  # a folder that what is expensive to build may be kept in
    memory_bytes: int  # that the model may take beyond what the program has when it starts


def main() -> None:
    """Print the Finding as one line of JSON."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not the finding
    job = Job(**json.loads(sys.argv[1]))
    _restrain(job)
    try:
        finding = measure(job)
    except SkerryError as error:
        finding = Finding(job.provider, str(error))
    told.write(json.dumps(asdict(finding)))
    told.close()


def measure(job: Job) -> Finding:
    """Raises ModelError if the provider cannot be used."""
    unpacked = bundle.load(Path(job.folder))
    runtime: Runtime = plugins.load(GROUP, unpacked.manifest.target.runtime)()
    before, start = _memory("RssAnon"), time.perf_counter()
    model = runtime.load(unpacked.model, job.threads, job.provider, Path(job.cache))
    load_ms = (time.perf_counter() - start) * 1e3
    tolerance = unpacked.manifest.tolerance
    apart = golden.worst(unpacked.golden, model.run(unpacked.golden.inputs), tolerance)
    p50_ms = _median_ms(model, _repeated(unpacked.golden.inputs, 1), RUNS, RUNS_S)
    batch = _batch(model, unpacked)
    memory_mb = (_memory("RssAnon") - before) / (1 << 20)
    _check_leak(model, unpacked.golden.inputs)
    return Finding(job.provider, "", apart, p50_ms, load_ms, batch, memory_mb)


def _restrain(job: Job) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the agent's end is this one's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if job.provider == CPU:  # drivers of accelerators reserve address space by the gigabyte; there only ``trial`` looks
        limit = _memory("VmData") + job.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _batch(model: Model, unpacked: Bundle) -> int:
    """How many examples are worth a shared run; 1 where the batch is not free, or answers differ within one."""
    tensors = (*unpacked.manifest.inputs, *unpacked.manifest.outputs)
    if any(spec.shape[:1] != (ANY,) for spec in tensors):
        return 1
    each: list[tuple[int, float]] = []
    for size in BATCHES:
        inputs = _repeated(unpacked.golden.inputs, size)
        try:
            _check_alike(model, inputs, unpacked.manifest.tolerance)
        except ModelError:
            break
        each.append((size, _median_ms(model, inputs, BATCH_RUNS, BATCH_S) / size))
    return batch_limit(each)


def _check_alike(model: Model, inputs: Tensors, tolerance: float) -> None:
    """Raises ModelError unless each of these equal examples gets the answer that one alone gets."""
    alone = model.run({name: array[:1] for name, array in inputs.items()})
    for name, array in model.run(inputs).items():
        right = np.repeat(alone[name], len(next(iter(inputs.values()))), axis=0)
        if golden.difference(name, array, right) > tolerance:
            raise ModelError(f"output {name!r} depends on the batch")


def _check_leak(model: Model, inputs: Tensors) -> None:
    before, until = _memory("VmRSS"), time.perf_counter() + LEAK_S
    for _ in range(LEAK_RUNS):
        model.run(inputs)
        if time.perf_counter() > until:
            break
    grown = _memory("VmRSS") - before
    if grown > LEAK_BYTES:
        raise ModelError(f"grew by {grown >> 20} MB in {LEAK_RUNS} runs or less: it leaks")


def _median_ms(model: Model, inputs: Tensors, runs: int, budget_s: float) -> float:
    times, until = list[float](), time.perf_counter() + budget_s
    model.run(inputs)
    while not times or (len(times) < runs and time.perf_counter() < until):
        start = time.perf_counter()
        model.run(inputs)
        times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def _repeated(inputs: Tensors, size: int) -> Tensors:
    """So many times the first example."""
    return {name: np.repeat(array[:1], size, axis=0) for name, array in inputs.items()}


def _memory(field: str) -> int:
    """Bytes, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))
