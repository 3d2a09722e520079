"""All workloads of a device. Each is updated, proven, protected and undone on its own, in a thread of its own: a model
that takes minutes to fetch or to try keeps no complaint about another one waiting.

They share what there is once: the memory, the time that the director signed last, the turn to try a model.
"""

import threading
from collections.abc import Callable, Iterable
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from skerry_edge.update import plan
from skerry_edge.update.flow import UpdateFlow
from skerry_edge.update.worker import Worker
from skerry_edge.update.world import Door
from skerry_shared.errors import SkerryError
from skerry_shared.ports.runtime import Tensors

MAX_STARTS = 3  # of the agent under the same models, without an end in order, before one of them is blamed

Authenticate = Callable[[bytes], plan.Order]  # raises SkerryError


class Workloads:
    """Thread-safe."""

    def __init__(
        self, authenticate: Authenticate, make: Callable[[str], UpdateFlow], door: Door, beat: Callable[[str], None],
        broke: Callable[[Exception], None], measure: Callable[[plan.Order], None],
    ) -> None:  # fmt: skip
        """``make`` opens the flow of a workload, known or new; ``beat`` and ``broke`` as of a Worker, with its name.

        ``measure`` gets what only asks for a benchmark: no workload's model is at stake.
        """
        self._authenticate, self._make, self._door, self._measure = authenticate, make, door, measure
        self._beat, self._broke = beat, broke
        self._lock, self._workers, self._closed = threading.Lock(), dict[str, Worker](), False

    def start(self, known: Iterable[str]) -> None:
        """Go on with the workloads that this device knows, after its agent's start."""
        flows = {name: self._make(name) for name in known}
        count_starts(list(flows.values()))
        for name, flow in flows.items():
            self._employ(name, flow)

    def desire(self, data: bytes) -> None:
        """A serialised Signed assignment came. One that cannot be trusted is reported and changes nothing."""
        try:
            order = self._authenticate(data)
        except SkerryError as error:
            self._door.turn_away(str(error))
            return
        if order.assignment.measure:
            self._measure(order)
            return
        name = order.assignment.workload
        with self._lock:
            if not self._closed:
                worker = self._workers.get(name) or self._employ(name, self._make(name))
                worker.desire(order)

    def occupied(self) -> str:
        """Who may need the device for itself; empty if nobody does."""
        busy = [name for name, worker in self._all().items() if worker.flow.under_way]
        return "the agent stops" if self._closed else f"an update of {', '.join(busy)} is under way" if busy else ""

    def proving(self) -> set[str]:
        """Workloads whose new model is compared with its predecessor."""
        return {name for name, worker in self._all().items() if worker.flow.proving}

    def shadowing(self) -> set[str]:
        """Workloads with a candidate that serves nobody."""
        return {name for name, worker in self._all().items() if worker.flow.shadowing}

    def sample(self, workload: str, release: int, name: str, inputs: Tensors, scores: NDArray[np.float32]) -> None:
        """A live answer, by its prediction id: the inputs as a batch of one, the scores one per label."""
        self._workers[workload].sample(release, name, inputs, scores)

    def learn(self, prediction_id: str, label: str) -> None:
        """The late truth of a prediction, of whatever model."""
        for name in self.proving():
            self._workers[name].learn(prediction_id, label)

    def failed(self, workload: str, release: int) -> None:
        """A live request that the model could not answer."""
        self._workers[workload].failed(release)

    def complain(self, workload: str, release: int, reason: str) -> None:
        """The model that serves does not do its job."""
        self._workers[workload].complain(release, reason)

    def recheck(self) -> None:
        """All golden inputs are due again."""
        for worker in self._all().values():
            worker.recheck()

    def settle(self) -> None:
        """The agent ran for long enough."""
        for worker in self._all().values():
            worker.settle()

    def close(self, in_order: bool) -> None:
        """Stop after the present steps. ``in_order``: no model is to blame for this end."""
        with self._lock:
            self._closed = True
        workers = self._all().values()
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()
            if in_order:
                worker.flow.settle()

    def _all(self) -> dict[str, Worker]:
        with self._lock:
            return dict(self._workers)

    def _employ(self, name: str, flow: UpdateFlow) -> Worker:
        worker = self._workers[name] = Worker(name, flow, lambda: self._beat(name), self._broke)
        worker.start()
        return worker


def count_starts(flows: list[UpdateFlow]) -> None:
    """The agent starts. Where it did too often only one model is blamed, and the others get another chance."""
    for flow in flows:
        flow.count_start()
    if all(flow.starts <= MAX_STARTS for flow in flows):
        return
    suspects = [flow for flow in flows if flow.starts >= MAX_STARTS]  # what began in a life counts it not, others do
    culprit = max(suspects, key=attrgetter("suspicion"))
    culprit.accuse()
    for flow in flows:
        if flow is not culprit:
            flow.forgive()
