"""The program that all commands belong to, and what they share."""

from pathlib import Path
from typing import Annotated

import typer

from skerry_cloud.api_client import CloudClient

MAP = """Train, compress, sign, roll out, watch and retrain models on a fleet of devices.

out:   data → train → compress → publish → rollout ══ signed release ══▶ devices

back:  retrain ◀ drift ◀ ingest ◀═══════ sealed telemetry ═══════════════ devices

Start with `skerry-cloud init` and `skerry-cloud serve`; the README walks through the loop in ten minutes.
"""

app = typer.Typer(
    help=MAP, no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False
)
OUT, BACK, LOOK = "Out: from data to devices", "Back: from devices to the next model", "Look"

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the event.")]


@app.callback()
def connect(
    context: typer.Context,
    cloud: Annotated[
        Path, typer.Option(envvar="SKERRY_CLOUD", help="The operator.toml that `skerry-cloud init` wrote.")
    ] = Path("skerry-cloud/operator.toml"),
) -> None:
    """Remember which cloud to speak to; it is called when a command needs it."""
    context.obj = lambda: CloudClient(cloud)
