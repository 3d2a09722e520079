"""Training as a job. Fills a run folder, see ``runs``."""

import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.datasets import RECENT, REFERENCE, TEST, TRAIN, DatasetVersion, Rows
from skerry_cloud.job import Progress, Report
from skerry_cloud.specs import TrainSpec
from skerry_cloud.train import fit, networks
from skerry_cloud.train.export import export
from skerry_cloud.workloads import Workload
from skerry_shared.errors import ModelError

MAX_PARITY = 1e-4  # between PyTorch and the export; some 5e-6 is usual, and a wrong operator is far above
PARITY_INPUTS = 256
# From a parent's weights, less is to be learned: parts of the epochs and of the peak learning rate.
WARM_EPOCHS, WARM_RATE = 0.25, 0.5


def work(spec: TrainSpec, report: Report) -> None:
    """Train, export, compare the export with PyTorch, evaluate on held-out rows, and write the metrics last.

    Killed, and asked again, it goes on from the last epoch.
    """
    version = datasets.open_version(spec.datasets, spec.dataset)
    workload = workloads.load(spec.workload, spec.folder, version.returned)
    report(Progress("data", 0, 1))
    rows = version.read()
    test = rows.of(TEST)
    report(Progress("data", 1, 1, f"version {spec.dataset}, {len(rows)} examples"))
    fit.start(spec.seed, spec.threads)
    network = _network(workload, spec.parent)
    recipe = _recipe(spec, workload, version.info.counts[TRAIN])
    seconds = _train(network, workload, version, rows.of(TRAIN), recipe, report, spec.run / runs.TRAINING)
    parity = _save(network, workload, spec.run, test, report)
    scores = fit.answer(network, workload, test.examples.inputs)
    parameters = sum(weights.numel() for weights in network.parameters())
    training = runs.Training(recipe.epochs, recipe.epoch_size, parameters, seconds, parity)
    metrics = evaluate(workload, version, test, scores, training)
    runs.write(spec.run / runs.METRICS, metrics)
    (spec.run / runs.TRAINING).unlink()
    report(Progress("evaluate", 1, 1, f"accuracy {metrics.overall['accuracy']:.4f} on {len(test)} held-out examples"))


def declare(workload: Workload, run: Path) -> None:
    """Write what a release needs to know of the workload."""
    declared = runs.Declared(
        workload.name, workload.owner, workload.labels, workload.input, workload.monitors, workload.fields()
    )
    runs.write(run / runs.DECLARED, declared)


def evaluate(
    workload: Workload, version: DatasetVersion, test: Rows, scores: NDArray[np.float32], training: runs.Training
) -> runs.Metrics:
    """The workload's metrics of ``scores`` (n × labels) on test rows: overall, by group, by source, by label."""
    labels, recent = test.examples.labels, version.recent(test)

    def of(mask: NDArray[np.bool_]) -> dict[str, float]:
        return workload.metrics(scores[mask], labels[mask])

    right = scores.argmax(axis=1) == labels
    masks = {REFERENCE: ~recent, RECENT: recent}
    return runs.Metrics(
        workload=workload.name,
        dataset=version.info.version,
        dataset_sha256=version.info.sha256,
        training=training,
        overall=workload.metrics(scores, labels),
        groups={group: of(mask) for group, mask in masks.items() if mask.any()},
        sources={str(source): of(test.source == source) for source in np.unique(test.source)},
        recall={workload.labels[label]: float(right[labels == label].mean()) for label in np.unique(labels)},
    )


def _network(workload: Workload, parent: Path | None) -> nn.Module:
    return networks.trained(parent / runs.WEIGHTS, workload) if parent else workload.model()


def _recipe(spec: TrainSpec, workload: Workload, available: int) -> fit.Recipe:
    warm = spec.parent is not None
    size = workload.train_size if spec.train_size is None else spec.train_size
    return fit.Recipe(
        epochs=spec.epochs or math.ceil(workload.epochs * (WARM_EPOCHS if warm else 1)),
        epoch_size=min(size or available, available),
        batch_size=workload.batch_size,
        learning_rate=workload.learning_rate * (WARM_RATE if warm else 1),
        seed=spec.seed,
        threads=spec.threads,
    )


def _train(
    network: nn.Module,
    workload: Workload,
    version: DatasetVersion,
    rows: Rows,
    recipe: fit.Recipe,
    report: Report,
    file: Path,
) -> float:
    """Train, reporting whole percents. Returns the seconds that it took."""

    def step(done: int, total: int, loss: float) -> None:
        if done * 100 // total > (done - 1) * 100 // total:
            report(Progress("train", done, total, f"loss {loss:.3f}"))

    start = time.perf_counter()
    file.parent.mkdir(parents=True, exist_ok=True)
    fit.fit(network, workload, rows.examples, version.recent(rows), recipe, step, file=file)
    return time.perf_counter() - start


def _save(network: nn.Module, workload: Workload, run: Path, test: Rows, report: Report) -> float:
    """Write the weights, what the workload declares, and the export. Returns the export's parity."""
    report(Progress("export", 0, 1))
    run.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), run / runs.WEIGHTS)
    declare(workload, run)
    export(network, workload, torch.tensor(test.examples.inputs[:2]), run / runs.MODEL)
    parity = _parity(network, workload, run / runs.MODEL, test.examples.inputs[:PARITY_INPUTS])
    report(Progress("export", 1, 1, f"parity {parity:.1e}"))
    return parity


def _parity(network: nn.Module, workload: Workload, model: Path, inputs: NDArray[np.generic]) -> float:
    difference = np.abs(OnnxModel(model).run(inputs).scores - fit.answer(network, workload, inputs))
    parity = float(difference.max())
    if not parity <= MAX_PARITY:  # a NaN is no parity either
        raise ModelError(
            f"{workload.name}: the export's scores differ from PyTorch's by {parity:.2g}, over {MAX_PARITY}"
        )
    return parity
