"""From a compressed run to the bundle of one device profile."""

from pathlib import Path

import numpy as np

from skerry_cloud import runs
from skerry_cloud.runs import Declared, Variant
from skerry_shared import bundle
from skerry_shared.bundle import Golden, Tensors
from skerry_shared.errors import GateError, NotFoundError
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Target, TensorSpec


def package(run: Path, target: Target, workload: str, release: int, lineage: Lineage) -> bytes:
    """The bundle of this run for this target, as a release of ``workload``: the same arguments give the same bytes.

    Raises NotFoundError if the run has no variant for such a device, GateError if its model needs more memory than
    the target has.
    """
    return package_variant(run, runs.variant(run, target.kind), target, workload, release, lineage)


def package_variant(
    run: Path, variant: Variant, target: Target, workload: str, release: int, lineage: Lineage
) -> bytes:
    """The same of a given variant of the run."""
    report = variant.report()
    declared = runs.read(Declared, run / runs.DECLARED)
    model = variant.model.read_bytes()
    if len(model) > target.memory_bytes:
        raise GateError(f"{target.profile}: model has {len(model)} bytes, the profile allows {target.memory_bytes}")
    golden = Golden(_arrays(variant.golden("in")), _arrays(variant.golden("out")))
    manifest = Manifest(
        workload=workload,
        release=release,
        owner=declared.owner,
        labels=declared.labels,
        inputs=(declared.input,),
        outputs=outputs(declared),
        target=target,
        measured=Measured(report.model_bytes, report.latency_ms, report.accuracy, report.parity),
        lineage=lineage,
        baseline=report.baseline,
        tolerance=report.tolerance,
        model_file=variant.model.name,
        fields=declared.fields,
    )
    return bundle.pack(manifest, model, golden, _extras(variant))


def outputs(declared: Declared) -> tuple[TensorSpec, ...]:
    """What every model of such a workload answers."""
    widths = {"scores": len(declared.labels), "monitors": len(declared.monitors)}
    return tuple(TensorSpec(name, "float32", (ANY, width)) for name, width in widths.items() if width)


def _extras(variant: Variant) -> dict[str, bytes]:
    path = variant.folder / runs.TABLE
    return {runs.TABLE: path.read_bytes()} if path.is_file() else {}


def _arrays(folder: Path) -> Tensors:
    arrays = {file.stem: np.load(file, allow_pickle=False) for file in sorted(folder.glob("*.npy"))}
    if not arrays:
        raise NotFoundError(f"release: no golden tensors in {folder}")
    return arrays
