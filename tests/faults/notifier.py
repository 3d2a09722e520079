"""The cloud's part that tells alarms, as a process that can be killed.

Arguments: database URL, webhook URL, authority.
"""

import asyncio
import sys
from pathlib import Path

from skerry_cloud.adapters.webhook import Webhook
from skerry_cloud.notify.flow import Notifier, Route
from skerry_cloud.store import Store


async def main(url: str, hook: str, authority: Path) -> None:
    carrier = Webhook(hook, "whsec_" + "a" * 44, authority)
    notifier = Notifier(Store(url), "main", {"hook": Route(carrier)}, 3600, 86400)
    while True:
        await notifier.tick()
        await asyncio.sleep(0.01)


asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
