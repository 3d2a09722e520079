"""Looking around, and trying things out: `skerry events|workloads|infer|oip-check`."""

import json
import tempfile
from pathlib import Path
from platform import machine
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from skerry_cloud.api_client import CloudClient
from skerry_shared import bundle
from skerry_shared.errors import DigestError, UsageError

if TYPE_CHECKING:
    from skerry_shared.testing import oip

from skerry_cloud.cli.app import LOOK, Json, app
from skerry_cloud.cli.terminal import cloud_of, console, event_line, listed, release_name, tell


@app.command(rich_help_panel=LOOK)
def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")] = False,
    after: Annotated[int, typer.Option(help="Only events with a higher id.")] = 0,
    as_json: Json = False,
) -> None:
    """Every change of state: who or what, when, from, to, why."""
    cloud = cloud_of(context)
    found = cloud.lines(f"/events?after={after}&follow=1") if follow else cloud.get(f"/events?after={after}")
    for event in found:
        typer.echo(json.dumps(event) if as_json else event_line(event))


@app.command(rich_help_panel=LOOK)
def workloads(context: typer.Context, as_json: Json = False) -> None:
    """The workloads that this cloud knows: built in, by entry point, or by path in skerry-cloud.toml."""
    listed(cloud_of(context).get("/workloads"), as_json, {"workload": "name"})


@app.command(rich_help_panel=LOOK)
def infer(
    context: typer.Context,
    release: Annotated[str, typer.Argument(metavar="WORKLOAD/NUMBER")],
    batch: Annotated[tuple[Path, Path], typer.Option(metavar="IN OUT", help="A Parquet file; a folder for answers.")],
    profile: Annotated[str, typer.Option(help="Whose bundle; by itself one for machines like this one.")] = "",
    size: Annotated[int, typer.Option(min=1, help="Rows of a part, which is written whole or not at all.")] = 4096,
    as_json: Json = False,
) -> None:
    """Answer the rows of a Parquet file by a release's model, here; what was interrupted goes on where it was.

    The file has a column called as the model's input, of raw bytes or flat lists of numbers. OUT gets Parquet files
    with the other columns, the top label and the scores.

    Example: skerry infer cells/1 --batch measurements.parquet answers
    """
    from skerry_cloud import bulk

    cloud, (source, out) = cloud_of(context), batch
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True), disable=as_json) as bars:
        unpacked = _fetch_bundle(cloud, release, profile, Path(folder))
        task = bars.add_task(f"infer {source.name}")
        show = lambda done, total: bars.update(task, completed=done, total=total)  # noqa: E731
        rows = bulk.answer(source, out, unpacked, show, size)
    tell({"rows": rows, "folder": str(out)}, as_json, f"{rows} rows of {source} are answered in {out}")


@app.command("oip-check", rich_help_panel=LOOK)
def oip_check(
    grpc: Annotated[str, typer.Argument(metavar="[HOST:PORT]", help="Address of the gRPC server.")] = "",
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the REST server.")] = "",
    model: Annotated[str, typer.Option(help="The model to ask; the server's only one if it tells it.")] = "",
    shape: Annotated[list[str] | None, typer.Option(help="Of an input, as NAME=1,3,224,224; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Check any server of the Open Inference Protocol v2 against its specification: agent, Triton, KServe, MLServer, …

    Exit code 1 if a rule that must hold is broken.

    Example: skerry oip-check 127.0.0.1:8001 --http 127.0.0.1:8000 --model resnet
    """
    from skerry_shared.testing import oip

    report = oip.run(oip.Target(grpc, http, model, dict(map(_input_shape, shape or ()))))
    if as_json:
        typer.echo(json.dumps(report.document()))
    else:
        _print_report(report)
    if not report.conforms:
        raise typer.Exit(1)


def _fetch_bundle(cloud: CloudClient, release: str, profile: str, folder: Path) -> bundle.Bundle:
    """The release's bundle for this profile, or for one whose models run on machines like this one."""
    workload, number = release_name(release)
    found = {row["profile"]: row for row in cloud.get(f"/releases/{workload}/{number}")["bundles"]}
    fitting = [name for name, row in found.items() if json.loads(row["manifest"])["target"]["arch"] == machine()]
    chosen = profile or next(iter(fitting), "")
    if chosen not in found:
        raise UsageError(f"profile: {release} has none for {chosen or machine()}; choose of {', '.join(found)}")
    data = cloud.page(f"/releases/{workload}/{number}/bundles/{chosen}")
    if bundle.digest(data) != found[chosen]["sha256"]:
        raise DigestError(f"{release}: the bundle for {chosen} is not what was signed")
    return bundle.unpack(data, folder / "bundle")


def _print_report(report: "oip.Report") -> None:
    colours = {"pass": "green", "fail": "bold red", "skip": "dim"}
    table = Table("", "level", "check", "rule", "seen", box=None, header_style="bold", pad_edge=False)
    for result in report.results:
        check, outcome = result.check, result.outcome.value
        seen = f"{result.seen} ({check.clause})" if outcome == "fail" else result.seen[:80]
        cells = (check.level.value, check.id, check.title, seen)
        table.add_row(f"[{colours[outcome]}]{outcome}[/]", *map(escape, cells))
    console.print(table)
    counts = ", ".join(f"{report.count(outcome)} {outcome.value}" for outcome in type(report.results[0].outcome))
    verdict = "[green]conforms[/]" if report.conforms else f"[bold red]broken: {escape(', '.join(report.broken))}[/]"
    console.print(f"{escape(report.server)}, model {escape(report.model)}: {counts}; {verdict}")


def _input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    if not name or not all(size.isdigit() for size in sizes.split(",")):
        raise UsageError(f"shape: {text!r} is not NAME=SIZE,SIZE,…, as in image=1,3,224,224")
    return name, tuple(int(size) for size in sizes.split(","))
