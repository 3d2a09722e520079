"""Skerry on the device: ``with skerry_edge.Client("/var/lib/skerry") as client: client.predict({"image": pixels})``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skerry_edge.client import AsyncClient, Client
    from skerry_edge.infer.engine import Prediction
    from skerry_edge.serve.socket_client import Answer, SocketClient

__all__ = ["Answer", "AsyncClient", "Client", "Prediction", "SocketClient"]

PLACES = {
    "AsyncClient": "skerry_edge.client",
    "Client": "skerry_edge.client",
    "Prediction": "skerry_edge.infer.engine",
    "Answer": "skerry_edge.serve.socket_client",
    "SocketClient": "skerry_edge.serve.socket_client",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the agent's command line needs none of it."""
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
