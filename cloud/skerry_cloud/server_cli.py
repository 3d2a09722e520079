"""`skerry-cloud`: makes a fleet's cloud side, checks it, and runs it."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from skerry_cloud import config, launch, setup
from skerry_shared.errors import SkerryError, UsageError

app = typer.Typer(
    help="The cloud side of a fleet: gateway, ingest, drift, training, rollouts, artifact store; one process, "
    "nothing to install beside it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(help="The cloud's folder.")]
HERE = Path("skerry-cloud")


@app.command()
def init(
    folder: Folder = HERE,
    fleet: Annotated[str, typer.Option(help="Name of the fleet: a-z, 0-9 and '-'.")] = "main",
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address under which devices reach this machine; may be repeated.")
    ] = None,
    address: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    https_port: Annotated[int, typer.Option(help="API, enrolment and repository.")] = 8443,
    grpc_port: Annotated[int, typer.Option(help="Devices over gRPC.")] = 8444,
    mqtt_port: Annotated[int, typer.Option(help="Devices over MQTT.")] = 8883,
) -> None:
    """Make a new fleet: keys, certificates, an empty signed repository, a configuration to edit.

    Example: skerry-cloud init && skerry-cloud serve
    """
    hosts = json.dumps(host or ["localhost", "127.0.0.1"])
    text = config.TEMPLATE.format(
        fleet=fleet, hosts=hosts, address=address, https_port=https_port, grpc_port=grpc_port, mqtt_port=mqtt_port
    )
    setup.create(folder, text)
    typer.echo(f"fleet {fleet} is in {folder}; next: skerry-cloud serve {folder}")
    typer.echo(
        f"operators: skerry --cloud {folder / setup.OPERATOR} …, or export SKERRY_CLOUD={folder / setup.OPERATOR}"
    )


@app.command()
def serve(
    folder: Folder = HERE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run the cloud until Ctrl-C or SIGTERM.

    Example: skerry-cloud serve
    """
    _log(verbose)
    config.load(folder)
    launch.warm_up()
    from skerry_cloud.server import serve  # what it needs takes two seconds to load: not for --help, nor before others

    serve(folder, typer.echo)


@app.command()
def ingest(
    folder: Folder = HERE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Take in what devices send over MQTT, beside `serve`, until Ctrl-C or SIGTERM: for fleets too large for one core.

    Start it as often as there are cores to spare, up to ingest.workers of skerry-cloud.toml. All that run share the
    devices evenly; when one ends, dies or hangs, the others take over its devices within seconds, and nothing is lost
    or counted twice. `serve` ingests by itself while none runs, and always what comes over gRPC.

    It needs the broker of `serve`, the cloud's folder (of its keys authority.pem, ingest.key and ingest-N.* only) and
    the database: for another machine a shared file system and PostgreSQL. `skerry events` tells who comes and goes.

    Example: skerry-cloud ingest & skerry-cloud ingest &
    """
    _log(verbose)
    from skerry_cloud.worker import ingest  # what it needs takes a second to load: not for --help

    ingest(folder, typer.echo)


@app.command()
def check(
    folder: Folder = HERE,
    notify: Annotated[
        bool,
        typer.Option("--notify", help="Send a test over every route of alarms, to the sender in an owner's place."),
    ] = False,
) -> None:
    """Say whether the configuration is right, and with --notify whether alarms would arrive.

    Example: skerry-cloud check --notify
    """
    from skerry_cloud import routes  # what it needs takes a second to load: not for --help

    found = config.load(folder)
    carriers = routes.load(found.alarms, folder)
    typer.echo(f"{folder / config.FILE} is right: fleet {found.fleet}")
    for name, route in carriers.items() if notify else ():
        route.carrier.tell(routes.trial(found.fleet, name, found.alarms.routes[name].sender, time.time()))
        typer.echo(f"route {name}: told")


def _log(verbose: bool) -> None:
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("alembic", "aiosqlite", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def main() -> None:
    """Run the program: 0 done, 1 failed, 2 used wrongly."""
    try:
        app()
    except (SkerryError, OSError) as error:
        sys.stderr.write(f"skerry-cloud: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
