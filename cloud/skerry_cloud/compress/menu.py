"""The recipes that are tried where nobody names any, by kind of device."""

import platform

from skerry_cloud import passes
from skerry_cloud.passes import Recipe
from skerry_cloud.workloads import Workload
from skerry_shared.errors import ConfigError
from skerry_shared.release import Kind

WIDTHS = (0.7, 0.5, 0.35, 0.25)
BITS = {"x86_64": 7, "aarch64": 8}  # of a weight, as ``int8`` has them there
PATIENCE = 3  # a student learns for so many times the workload's epochs; Beyer et al., CVPR 2022


def plain(kind: Kind) -> Recipe:
    """What needs no search: the champion in the kind's precision."""
    if kind.runtime == "litert":
        return passes.parse(_tflite(kind))
    return passes.parse(f"int8(arch='{kind.arch}') + slim" if kind.precision == "int8" else "slim")


def imported(kind: Kind) -> Recipe:
    """For an imported .tflite file: it is what it is. Raises ConfigError where a device cannot run it."""
    if kind.runtime != "litert":
        raise ConfigError(
            f"profiles: {kind.name}: an imported .tflite file runs on litert; name a profile of that runtime"
        )
    return passes.parse("keep")


def menu(kind: Kind, workload: Workload) -> list[Recipe]:
    """Everything worth trying for this kind, what needs no training first, what only mends others last."""
    trained = (f"{start} + {end}" for start in _trained(workload) for end in _ends(kind))
    texts = [*_finished(kind), *trained, *_mended(kind, workload)]
    return [plain(kind), *map(passes.parse, texts)]


def _finished(kind: Kind) -> list[str]:
    if kind.runtime == "litert":
        return []
    if kind.precision != "int8":
        return ["half + slim"]
    variants = ("calibration='minmax'", "calibration='entropy'", "spare=2")
    quantised = [f"int8(arch='{kind.arch}', {options}) + slim" for options in variants]
    return [*quantised, "dynamic + slim", *(["slim"] if _timed_here(kind) else [])]


def _trained(workload: Workload) -> list[str]:
    epochs = workload.epochs * PATIENCE
    widths = WIDTHS if workload.student(1.0) else ()
    students = [f"distil(width={width}, epochs={epochs})" for width in widths]
    return [*students, *(f"prune(keep={keep}) + tune(epochs={epochs})" for keep in WIDTHS)]


def _ends(kind: Kind) -> list[str]:
    if kind.runtime == "litert":
        return [_tflite(kind)]
    integers = [f"onnx + int8(arch='{kind.arch}'{options}) + slim" for options in ("", ", spare=2")]
    if kind.precision != "int8":
        return ["onnx + slim"]
    return ["onnx + slim", *integers] if _timed_here(kind) else integers


def _mended(kind: Kind, workload: Workload) -> list[str]:
    """What is tried only where the same without ``qat`` loses too much; see ``explore``."""
    if kind.runtime == "litert" or kind.precision != "int8":
        return []
    return [f"qat(epochs={workload.epochs}, bits={BITS[kind.arch]}) + onnx + int8(arch='{kind.arch}') + slim"]


def _timed_here(kind: Kind) -> bool:
    """Can float be compared with integers here? How much these gain depends on the architecture."""
    return kind.arch == platform.machine()


def _tflite(kind: Kind) -> str:
    return "tflite(integer=True)" if kind.precision == "int8" else "tflite"
