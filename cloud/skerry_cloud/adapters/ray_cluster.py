"""Ray: a function on the machines of a cluster, which must see the same files and have the same packages."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from skerry_shared.errors import ConfigError, LinkError

T = TypeVar("T")
log = logging.getLogger(__name__)


def spread(address: str, work: Callable[[T], None], items: Sequence[T]) -> Iterator[int]:
    """Do ``work`` on each item, a core each; yields how many are through. One that failed is logged, and through too.

    ``address`` is Ray's: "auto" for the cluster of this machine, or "ray://host:port". Raises ConfigError if Ray is
    not installed, LinkError if the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("compress.ray: Ray is not installed; pip install 'skerry[cloud,ray]'") from None
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise LinkError(f"compress.ray: {address}: {error}") from None
    try:
        task = ray.remote(num_cpus=1)(work)
        waiting = [task.remote(item) for item in items]
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except ray.exceptions.RayError as error:
                log.warning("a Ray worker failed: %s", error)
            yield len(items) - len(waiting)
    finally:
        ray.shutdown()
