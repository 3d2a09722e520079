"""A kitchen whose models are made by Ray workers, many at a time. They are weighed and timed here, one by one."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from skerry_cloud import datasets, passes, workloads
from skerry_cloud.adapters import ray_cluster
from skerry_cloud.compress import study
from skerry_cloud.compress.make import Kitchen
from skerry_cloud.compress.material import gather
from skerry_cloud.job import Progress, Report
from skerry_cloud.passes import Material, Recipe
from skerry_cloud.specs import CompressSpec
from skerry_shared.errors import ModelError

Share = tuple[CompressSpec, tuple[str, ...]]  # recipes that one worker makes one after the other


class ClusterKitchen(Kitchen):
    """Makes ahead on the cluster that ``spec.ray`` names; what fails there is made here when it is asked for."""

    def __init__(self, spec: CompressSpec, material: Material, report: Report) -> None:
        super().__init__(spec.run, spec.run / study.FOLDER, material)
        self._spec, self._report = spec, report

    def ahead(self, recipes: Sequence[Recipe]) -> None:
        """Make these. Raises ConfigError or LinkError if there is no cluster."""
        shares = [(self._spec, texts) for texts in apart([each for each in recipes if not self.has(each)])]
        for done in ray_cluster.spread(self._spec.ray, cook, shares) if shares else ():
            self._report(Progress("ray", done, len(shares), f"{sum(len(texts) for _, texts in shares)} recipes"))


def apart(recipes: Sequence[Recipe]) -> list[tuple[str, ...]]:
    """By their first step, so that no two workers make the same one."""
    groups = defaultdict[str, list[str]](list)
    for recipe in recipes:
        groups[passes.spell(recipe[:1])].append(passes.spell(recipe))
    return [tuple(texts) for texts in groups.values()]


def cook(share: Share) -> None:
    """On a worker: make these recipes, in the study's folder."""
    spec, texts = share
    version = datasets.open_version(spec.datasets, spec.dataset)
    workload = workloads.load(spec.workload, spec.folder, version.returned)
    material = gather(spec, workload, version, version.read(), lambda _: None)
    kitchen = Kitchen(spec.run, spec.run / study.FOLDER, material)
    for text in texts:
        with suppress(ModelError):  # the search hears of it when it asks for this one
            kitchen.make(passes.parse(text))
