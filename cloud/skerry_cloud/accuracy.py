"""How right a release is on some devices, guessed from the confidence of its answers, for want of labels."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from skerry_cloud.ingest.lake import Lake
from skerry_cloud.ingest.samples import confidences
from skerry_cloud.retrain.harm import Accuracy, guessed
from skerry_cloud.store import Release, Run, Store
from skerry_shared.release import Channel
from skerry_shared.sketch import CONFIDENCE

Normal = Callable[[str, str, int], Awaitable[Sequence[Channel]]]  # what is normal for a device and release


async def estimate(
    store: Store, normal: Normal, lake: Lake, workload: str, release: int, since: Mapping[str, float]
) -> tuple[float, Accuracy]:
    """The accuracy (0 to 1) when it was released, and the guess for these devices, each since its own time."""
    before = (await store.get(Run, (await store.get(Release, workload, release)).run)).accuracy
    channels = await normal(next(iter(since)), workload, release)
    usual = next(channel for channel in channels if channel.name == CONFIDENCE)
    tops, probabilities = await asyncio.to_thread(confidences, lake, workload, release, since)
    return before, guessed(before, usual, tops, probabilities)
