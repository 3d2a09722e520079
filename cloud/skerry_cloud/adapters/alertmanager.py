"""Notices as alerts of Prometheus' Alertmanager, API v2 (api/v2/openapi.yaml of github.com/prometheus/alertmanager).

An alert holds until its ``endsAt``: some time from now while the alarm is not resolved, renewed long before, so that an
Alertmanager which lost its memory learns of it again.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from skerry_cloud.adapters.post import Poster
from skerry_cloud.notices import Message

NAME = "SkerryAlarm"
HOLDS = 3600.0  # seconds that an alert is believed without being renewed
RESOLVED = "resolved"


class Alertmanager:
    """Tells one Alertmanager, whose address is ``url``, up to /api."""

    def __init__(self, url: str, token: str, authority: Path | None) -> None:
        """``token`` for "Authorization: Bearer", or nothing; ``authority``: whom to trust instead of the system."""
        self._url = f"{url.rstrip('/')}/api/v2/alerts"
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._post = Poster(authority)

    def tell(self, message: Message) -> None:
        """Post it as one alert."""
        self.renew([message])

    def renew(self, unresolved: Sequence[Message]) -> None:
        """Post them all at once."""
        if unresolved:
            self._post(self._url, json.dumps([alert(message) for message in unresolved]).encode(), self._headers)


def alert(message: Message) -> dict[str, Any]:
    """A ``postableAlert``. Labels say which alarm it is and never change; annotations may."""
    alarm = message.alarm
    ends = message.time + (0 if alarm["state"] == RESOLVED else HOLDS)
    labels = {"alertname": NAME, "fleet": message.fleet, "alarm": str(alarm["id"]), "level": alarm["level"],
              "place": alarm["name"], "workload": alarm["workload"]}  # fmt: skip
    notes = {"summary": alarm["summary"], "owner": alarm["owner"], "state": alarm["state"], "health": alarm["health"],
             "kind": alarm["kind"], "release": str(alarm["release"]), "reason": message.reason}  # fmt: skip
    return {"labels": {name: value for name, value in labels.items() if value}, "annotations": notes,
            "startsAt": _rfc3339(alarm["opened"]), "endsAt": _rfc3339(ends)}  # fmt: skip


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
