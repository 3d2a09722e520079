"""Benchmark jobs: one device measures one candidate, and whoever asked waits for its rows.

Nothing of it is kept: a cloud that dies takes the question with it, and the job expires by itself.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from skerry_cloud.fleet.director import Candidate, Director

Row = Mapping[str, Any]  # of telemetry table "measured", with its origin


class Benchmarks:
    """All methods belong to one event loop."""

    def __init__(self, director: Director) -> None:
        self._director = director
        self._waiting: dict[
            tuple[str, str], asyncio.Future[list[Row]]
        ] = {}  # by device and the digest of what it measures

    async def idle(self, profile: str) -> str | None:
        """A device of this profile that could measure something now; None if there is none."""
        return await self._director.idle(profile)

    async def measure(self, device: str, candidate: Candidate, seconds: float) -> list[Row]:
        """What the device found, a row a provider. Raises TimeoutError if it does not say in time."""
        answer = self._waiting[device, candidate.sha256] = asyncio.get_running_loop().create_future()
        try:
            await self._director.measure(device, candidate, seconds, time.time())
            return await asyncio.wait_for(answer, seconds)
        finally:
            self._director.measured(device)
            del self._waiting[device, candidate.sha256]

    def take(self, rows: Iterable[Row]) -> None:
        """Rows that came from devices. A job's come in one batch; what nobody waits for is in the lake all the same."""
        answers = defaultdict[tuple[str, str], list[Row]](list)
        for row in rows:
            answers[row["device"], row["sha256"]].append(row)
        for asked, found in answers.items():
            if (answer := self._waiting.get(asked)) and not answer.done():
                answer.set_result(found)
