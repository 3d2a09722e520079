"""The contract of a pass of compression, for its author to test: ``check_pass(Mine(), model, material(workload))``."""

import dataclasses
import logging
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from skerry_cloud import passes
from skerry_cloud.adapters import models
from skerry_cloud.passes import Form, Material, Pass
from skerry_cloud.workloads import Workload
from skerry_shared import plugins
from skerry_shared.errors import ModelError


def check_pass(step: Pass, source: Path, material: Material) -> None:
    """Raises AssertionError that names the rule that is broken. ``source`` is a model of the form that it takes."""
    _check_declaration(step)
    with tempfile.TemporaryDirectory() as folder:
        before, level = source.read_bytes(), logging.getLogger().level
        target = Path(folder) / f"model{passes.SUFFIX[step.gives]}"
        step(source, target, material)
        assert source.read_bytes() == before, "the source must stay as it is"
        assert [path.name for path in Path(folder).iterdir()] == [target.name], "it must write the target, and no more"
        assert logging.getLogger().level == level, "the process must log on as it did"
        made = target.read_bytes()
        step(source, target, material)
        assert target.read_bytes() == made, "the same source, options and material must give the same bytes"
        _check_answers(target, material)
        _check_refusal(step, source, material)


def material(workload: Workload, examples: int = 64) -> Material:
    """Of the workload's own first examples; its teacher is always sure of the label."""
    train = workload.examples().take(slice(0, examples))
    sure = np.eye(len(workload.labels), dtype=np.float32)[train.labels]
    return Material(workload, train, np.zeros(len(train), bool), train.inputs, lambda _: sure, lambda *_: None)


def _check_declaration(step: Pass) -> None:
    assert dataclasses.is_dataclass(step), "a pass is a dataclass: its fields are its options"
    assert type(step).__dataclass_params__.frozen, "it must be frozen: a recipe names what it makes"
    assert {step.takes, step.gives} <= set(get_args(Form)), f"takes and gives must be of {get_args(Form)}"
    assert step.name in plugins.names(passes.GROUP), f"{step.name!r} must be an entry point of {passes.GROUP}"
    assert passes.parse(passes.spell((step,))) == (step,), "its text must give it back: use plain option values"


def _check_answers(target: Path, material: Material) -> None:
    if target.suffix == passes.SUFFIX["network"]:
        return  # the passes behind it will answer
    inputs = material.calibration[:5]
    answers = models.load(target).run(inputs)
    assert answers.scores.shape == (len(inputs), len(material.workload.labels)), "scores must be n × labels"
    assert answers.monitors.shape == (len(inputs), len(material.workload.monitors)), "monitors must be n × M"
    assert np.allclose(answers.scores.sum(axis=1), 1, atol=1e-2), "scores must be probabilities"


def _check_refusal(step: Pass, source: Path, material: Material) -> None:
    with tempfile.TemporaryDirectory() as folder:
        damaged, target = Path(folder) / f"damaged{source.suffix}", Path(folder) / f"model{passes.SUFFIX[step.gives]}"
        damaged.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        try:
            step(damaged, target, material)
        except ModelError:
            assert not target.exists(), "a pass that failed must leave no target"
            return
        afresh = "epochs" in vars(step)  # who trains from scratch need not look at it
        assert afresh, "a damaged model must raise ModelError"
