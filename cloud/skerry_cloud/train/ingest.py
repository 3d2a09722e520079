"""Making a dataset version as a job.

Without samples the workload's own data are read; with samples, what devices sent back is added to a parent version.
"""

import numpy as np

from skerry_cloud import datasets, workloads
from skerry_cloud.job import Progress, Report
from skerry_cloud.specs import IngestSpec
from skerry_cloud.train.teacher import teach
from skerry_cloud.workloads import Examples
from skerry_shared.errors import ConfigError


def work(spec: IngestSpec, report: Report) -> None:
    """Read, validate, split, write."""
    workload = workloads.load(spec.workload, spec.folder)
    if workload.name != spec.name:
        raise ConfigError(f"workload: configured as {spec.name!r}, but its class says name = {workload.name!r}")
    report(Progress("ingest", 0, 2, "reading"))
    if spec.samples:
        with np.load(spec.samples, allow_pickle=False) as file:
            examples, places, note = teach(workload, Examples(file["inputs"], file["labels"]), spec.sure)
            sources = file["sources"][places].tolist()
    else:
        examples = workload.examples()
        sources, note = [datasets.REFERENCE] * len(examples), f"{len(examples)} examples"
    report(Progress("ingest", 1, 2, note))
    parent = datasets.open_version(spec.datasets, spec.parent) if spec.parent else None
    version = datasets.create(spec.datasets, workload, examples, sources, parent, created=spec.created)
    report(Progress("ingest", 2, 2, f"version {version.info.version}: {version.info.counts}"))
