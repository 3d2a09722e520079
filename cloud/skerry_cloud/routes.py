"""From ``[alarms.routes]`` of the configuration to what carries notices."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from skerry_cloud.adapters.alertmanager import Alertmanager
from skerry_cloud.adapters.mail import Mail, Security, Server
from skerry_cloud.adapters.webhook import Webhook
from skerry_cloud.config import Alarms, Route
from skerry_cloud.notices import Carrier, Message
from skerry_cloud.notify import flow
from skerry_shared.errors import ConfigError

PORTS = {"smtp": 587, "smtps": 465}


def load(found: Alarms, folder: Path) -> dict[str, flow.Route]:
    """All routes by name, their files below ``folder``. Raises ConfigError that names the route and its key."""
    return {name: _route(name, route, folder) for name, route in found.routes.items()}


def trial(fleet: str, name: str, owner: str, now: float) -> Message:
    """What `skerry-cloud check --notify` sends over this route: an alarm that is over at once."""
    about: dict[str, Any] = {
        "id": 0, "level": "fleet", "name": "", "workload": "test", "release": 0, "kind": "test", "state": "resolved",
        "health": "ok", "owner": owner, "devices": [], "opened": now, "summary": f"This is a test of route {name}.",
    }  # fmt: skip
    return Message(f"{fleet}-test-{name}-{now:.0f}", fleet, "tested", now, "skerry-cloud check", "operator", about)


def _route(name: str, route: Route, folder: Path) -> flow.Route:
    try:
        carrier = CARRIERS[route.kind](route, _secret(route, folder), route.authority and folder / route.authority)
    except (ConfigError, OSError) as error:
        raise ConfigError(f"alarms.routes.{name}: {error}") from None
    return flow.Route(carrier, route.step, route.workloads)


def _secret(route: Route, folder: Path) -> str:
    return (folder / route.secret).read_text().strip() if route.secret else ""


def _mail(route: Route, secret: str, authority: Path | None) -> Mail:
    parts = urlsplit(route.url)
    plain: Security = "none" if route.local else "starttls"
    security: Security = "tls" if parts.scheme == "smtps" else plain
    port, user = parts.port or PORTS[parts.scheme], unquote(parts.username or "")
    server = Server(parts.hostname or "", port, security, user, secret, authority)
    return Mail(server, route.sender, route.to)


CARRIERS: Mapping[str, Callable[[Route, str, Path | None], Carrier]] = {
    "webhook": lambda route, secret, authority: Webhook(route.url, secret, authority),
    "mail": _mail,
    "alertmanager": lambda route, secret, authority: Alertmanager(route.url, secret, authority),
}
