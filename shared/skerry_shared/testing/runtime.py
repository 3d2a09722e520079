"""The contract of a runtime, for the tests of its author: ``check_runtime(MyRuntime(), model, golden)``."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from skerry_shared.bundle import Golden
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import CPU, Model, Runtime, Tensors

ROUNDS = 32  # calls from several threads at once


def check_runtime(runtime: Runtime, model: Path, golden: Golden, tolerance: float = 1e-4) -> None:
    """Raises AssertionError that names the rule that is broken. ``model`` must answer ``golden``, in any batch size."""
    assert CPU in runtime.providers(), f"providers() must name {CPU!r}"
    assert runtime.version().strip() and "\n" not in runtime.version(), "version() must be one line"
    _check_refusals(runtime, model)
    loaded = runtime.load(model, threads=1)
    _check_answers("a batch", loaded.run(golden.inputs), golden.outputs, tolerance)
    _check_answers("one example", loaded.run(_first(golden.inputs)), _first(golden.outputs), tolerance)
    _check_kept(loaded, golden, tolerance)
    _check_threads(loaded, golden, tolerance)
    _check_wrong_inputs(loaded, golden)
    _check_answers("after errors", loaded.run(golden.inputs), golden.outputs, tolerance)


def _check_refusals(runtime: Runtime, model: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder, f"damaged{model.suffix}")
        damaged.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
        for name, path in (("damaged", damaged), ("missing", Path(folder, f"missing{model.suffix}"))):
            try:
                runtime.load(path, threads=1)
            except ModelError:
                continue
            raise AssertionError(f"a {name} model must raise ModelError when it is loaded")
    try:
        runtime.load(model, 1, "no such provider")
    except ModelError:
        return
    raise AssertionError("a provider that is not there must raise ModelError, and not be replaced by another")


def _check_answers(case: str, found: Tensors, right: Tensors, tolerance: float) -> None:
    for name, expected in right.items():
        assert name in found, f"{case}: output {name!r} is missing"
        assert found[name].shape == expected.shape, f"{case}: output {name!r} has shape {found[name].shape}"
        apart = float(np.abs(found[name].astype(np.float64) - expected.astype(np.float64)).max())
        assert apart <= tolerance, f"{case}: output {name!r} differs by {apart}"


def _check_kept(loaded: Model, golden: Golden, tolerance: float) -> None:
    """An answer is the caller's: neither a later call nor another's writing changes it."""
    first = loaded.run(golden.inputs)
    second = loaded.run({name: array[::-1].copy() for name, array in golden.inputs.items()})
    for array in second.values():
        array.fill(0)
    _check_answers("an answer that was kept", first, golden.outputs, tolerance)
    _check_answers("after another's answer was written to", loaded.run(golden.inputs), golden.outputs, tolerance)


def _check_threads(loaded: Model, golden: Golden, tolerance: float) -> None:
    with ThreadPoolExecutor(4) as threads:
        for answer in threads.map(lambda _: loaded.run(golden.inputs), range(ROUNDS)):
            _check_answers("several threads", answer, golden.outputs, tolerance)


def _check_wrong_inputs(loaded: Model, golden: Golden) -> None:
    wrong: dict[str, Tensors] = {
        "no": {},
        "unknown": {f"not {name}": array for name, array in golden.inputs.items()},
        "misshapen": {name: array[..., :0] for name, array in golden.inputs.items()},
        "mistyped": {name: array.astype(np.complex64) for name, array in golden.inputs.items()},
    }
    for case, inputs in wrong.items():
        try:
            loaded.run(inputs)
        except ModelError:
            continue
        raise AssertionError(f"{case} inputs must raise ModelError")


def _first(tensors: Tensors) -> Tensors:
    return {name: array[:1] for name, array in tensors.items()}
