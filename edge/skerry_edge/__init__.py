"""Skerry on the device: ``with skerry_edge.Client("/var/lib/skerry") as client: client.predict({"image": pixels})``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skerry_edge.client import Client
    from skerry_edge.infer.engine import Prediction

__all__ = ["Client", "Prediction"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the agent's command line needs none of it."""
    if name == "Client":
        from skerry_edge.client import Client

        return Client
    if name == "Prediction":
        from skerry_edge.infer.engine import Prediction

        return Prediction
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
