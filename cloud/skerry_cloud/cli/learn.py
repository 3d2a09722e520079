"""From data to a signed release: `skerry data|train|model|compress|publish|run|release`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from skerry_cloud.api_client import CloudClient
from skerry_cloud.cli.app import LOOK, OUT, Json, Reason, app
from skerry_cloud.cli.terminal import (
    cloud_of,
    console,
    cost_of,
    follow,
    listed,
    minutes_of,
    release_name,
    short,
    show,
    tell,
    time_of,
    when,
)
from skerry_cloud.compress import picture as pictures
from skerry_cloud.compress.study import Search, Study, Trial
from skerry_shared.config import decode
from skerry_shared.errors import GateError

data = typer.Typer(help="Dataset versions: ingest, validate, split, number.", no_args_is_help=True)
model = typer.Typer(help="Models that were made elsewhere.", no_args_is_help=True)
run = typer.Typer(help="Training runs and what compression made of them.", no_args_is_help=True)
release = typer.Typer(help="Published releases and their lineage.", no_args_is_help=True)
app.add_typer(data, name="data", rich_help_panel=OUT)
app.add_typer(model, name="model", rich_help_panel=OUT)
app.add_typer(run, name="run", rich_help_panel=LOOK)
app.add_typer(release, name="release", rich_help_panel=LOOK)


@data.command("add")
def data_add(context: typer.Context, workload: str, as_json: Json = False) -> None:
    """Ingest a workload's own data as its next dataset version.

    Example: skerry data add fashion
    """
    done = follow(cloud_of(context).work("/datasets", workload=workload), as_json)
    tell(
        done, as_json, f"dataset {done['workload']}@{done['number']}: {done['rows']} rows, sha256 {done['sha256'][:12]}"
    )


@data.command("list")
def data_list(context: typer.Context, as_json: Json = False) -> None:
    """Dataset versions of all workloads."""
    rows = cloud_of(context).get("/datasets")
    listed(rows, as_json, {
        "dataset": lambda r: f"{r['workload']}@{r['number']}", "rows": "rows", "parent": "parent",
        "sources": lambda r: ", ".join(f"{k}: {v}" for k, v in r["sources"].items()), "created": when("created"),
        "sha256": lambda r: r["sha256"][:12],
    })  # fmt: skip


@app.command(rich_help_panel=OUT)
def train(
    context: typer.Context,
    workload: str,
    dataset: Annotated[int, typer.Option(help="Dataset version; 0 is the newest.")] = 0,
    epochs: Annotated[int, typer.Option(help="0 is the workload's own number.")] = 0,
    parent: Annotated[int, typer.Option(help="Start from this release's weights; 0 is from scratch.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a model on a dataset version and evaluate it on held-out data.

    Example: skerry train fashion --epochs 3
    """
    work = cloud_of(context).work("/runs", workload=workload, dataset=dataset, epochs=epochs, parent=parent)
    done = follow(work, as_json)
    tell(done, as_json, f"run {done['id']}: accuracy {done['accuracy']:.2%} on held-out data")


@model.command("import")
def model_import(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx|FILE.tflite", exists=True, dir_okay=False)],
    workload: Annotated[str, typer.Option(help="What it is a model of: labels, input, held-out data, owner.")],
    dataset: Annotated[int, typer.Option(help="Dataset version to evaluate it on; 0 is the newest.")] = 0,
    scores: Annotated[str, typer.Option(help="The output that holds one score a label, if there are several.")] = "",
    as_json: Json = False,
) -> None:
    """Bring a model that was trained elsewhere: it becomes a run, to be compressed, published and watched.

    The workload needs no model() and no prepare(). What the file takes must be the workload's input; in an ONNX file
    logits get a softmax, and the workload's monitors are added. It is evaluated on the dataset's held-out rows.

    Example: skerry model import resnet.onnx --workload fashion
    """
    work = cloud_of(context).send("/models", file, workload=workload, dataset=dataset, scores=scores)
    done = follow(work, as_json)
    tell(done, as_json, f"run {done['id']}: {file.name} imported, accuracy {done['accuracy']:.2%} on held-out data")


@app.command(rich_help_panel=OUT)
def compress(
    context: typer.Context,
    run: int,
    profile: Annotated[list[str], typer.Option(help="Device profile; may be repeated.")],
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy that may be lost, at 95 % sure.")] = None,
    max_size: Annotated[float | None, typer.Option(help="KB that a model file may have.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="Milliseconds that an answer may take.")] = None,
    minutes: Annotated[float, typer.Option(help="Time to search; 0 makes the plain variant, without a search.")] = 0,
    recipe: Annotated[list[str] | None, typer.Option(help="Try this in place of the usual; may be repeated.")] = None,
    device_minutes: Annotated[
        float, typer.Option(help="Time that idle devices get to measure what passed; 0: measure here only.")
    ] = 5,
    picture: Annotated[Path | None, typer.Option(help="Draw what was tried to this PNG file.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Save the report, good or bad.")] = None,
    as_json: Json = False,
) -> None:
    """Make and check one variant of a run for each device profile, the best that a search finds.

    Without --minutes: INT8 or float, as the profile wants. With: smaller networks that learn from the trained one,
    pruned ones, and several ways to quantise. Stopped midway, the same command goes on from there.

    Where a device of a profile is linked and idle, it measures what passed, and its latencies decide. It serves on.

    Example: skerry compress 1 --profile generic-x86-64 --max-drop 0.5 --minutes 30 --picture front.png

    Example: skerry compress 1 --profile coral-dev-board --recipe "prune(keep=0.5) + tune(epochs=4) + onnx + slim"
    """
    wanted = {"profiles": profile, "max_drop": max_drop, "max_latency_ms": max_latency, "minutes": minutes,
              "max_bytes": None if max_size is None else int(max_size * 1024), "recipes": recipe or [],
              "device_minutes": device_minutes}  # fmt: skip
    cloud = cloud_of(context)
    try:
        done = follow(cloud.work(f"/runs/{run}/variants", **wanted), as_json)
    except GateError:
        if report:
            _save_report(cloud, run, report)
        raise
    if report:
        _save_report(cloud, run, report)
    study = decode(Study, done["study"], "study")
    if picture:
        pictures.png(study, picture)
    tell(done, as_json, f"run {run}: {len(done['variants'])} variants")
    if not as_json:
        for search in study.searches:
            _print_search(study, search)


@app.command(rich_help_panel=OUT)
def publish(context: typer.Context, run: int, reason: Reason = "by the operator", as_json: Json = False) -> None:
    """Sign a compressed run's bundles and publish them as the workload's next release.

    Example: skerry publish 1
    """
    done = cloud_of(context).post("/releases", run=run, reason=reason)
    tell(done, as_json, f"release {done['workload']}/{done['number']} of run {run} is published")
    if done["unseen"]:
        typer.echo(f"devices send no {', '.join(done['unseen'])}: a model that is retrained on what they send does "
                   "not look at that", err=True)  # fmt: skip


@run.command("list")
def run_list(context: typer.Context, as_json: Json = False) -> None:
    """All training runs, with the minutes that they took and what these cost."""
    listed(cloud_of(context).get("/runs"), as_json, {
        "run": "id", "workload": "workload", "dataset": "dataset", "parent": "parent", "state": "state",
        "accuracy": lambda r: f"{r['accuracy']:.2%}", "minutes": minutes_of, "cost": cost_of,
        "created": when("created"), "reason": "reason",
    })  # fmt: skip


@run.command("show")
def run_show(context: typer.Context, run: int, as_json: Json = False) -> None:
    """A run with the figures of its variants."""
    show(cloud_of(context).get(f"/runs/{run}"), as_json)


@run.command("report")
def run_report(context: typer.Context, run: int, file: Annotated[Path, typer.Argument(metavar="FILE.html")]) -> None:
    """Save what compression tried, measured and chose: one page of HTML that needs no network.

    Example: skerry run report 1 report.html
    """
    _save_report(cloud_of(context), run, file)


@release.command("list")
def release_list(context: typer.Context, as_json: Json = False) -> None:
    """All published releases."""
    listed(cloud_of(context).get("/releases"), as_json, {
        "release": lambda r: f"{r['workload']}/{r['number']}", "run": "run", "owner": "owner",
        "created": when("created"), "reason": "reason",
    })  # fmt: skip


@release.command("show")
def release_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="WORKLOAD/NUMBER")],
    lineage: Annotated[bool, typer.Option("--lineage", help="From the devices back to the data.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Save the report of its compression.")
    ] = None,
    as_json: Json = False,
) -> None:
    """A release, what devices keep of its inputs, its bundles and, with --lineage, where it comes from.

    Example: skerry release show fashion/2 --lineage
    """
    workload, number = release_name(name)
    found = cloud_of(context).get(f"/releases/{workload}/{number}")
    if report:
        _save_report(cloud_of(context), found["run"], report)
    if as_json or not lineage:
        return show(found["lineage"] if lineage else found, as_json)
    for depth, step in enumerate(found["lineage"]):
        details = ", ".join(f"{k} {short(v)}" for k, v in step.items() if k not in ("kind", "name", "time", "why"))
        console.print(f"{'  ' * min(depth, 8)}[bold]{step['kind']}[/] {step['name']}  [dim]{time_of(step['time'])}[/]  "
                      f"{escape(step['why'])}{f'  [dim]({escape(details)})[/]' if details else ''}")  # fmt: skip
    return None


def _save_report(cloud: CloudClient, run: int, file: Path) -> None:
    file.write_bytes(cloud.page(f"/runs/{run}/report"))
    print(f"report of run {run}: {file}", file=sys.stderr)  # noqa: T201


def _print_search(study: Study, search: Search) -> None:
    """The picture, if there was something to choose from, and what was chosen."""
    columns = ("", "recipe", "validation", "KB", "ms", "of float", "gates")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for trial in search.trials:
        if trial.figures and (trial.verdicts or trial.recipe in search.front):
            table.add_row(*map(escape, _trial_row(trial, trial.recipe == search.chosen)))
    console.print(f"[bold]{search.kind.name}[/] for {', '.join(search.profiles)}: {escape(search.reason)}")
    if len(search.trials) > 1:
        console.print(pictures.text(study, search), highlight=False)
    console.print(table)


def _trial_row(trial: Trial, chosen: bool) -> tuple[str, ...]:
    figures = trial.figures
    assert figures
    failed = ", ".join(f"{each.gate} {each.subject}".strip() for each in trial.verdicts if not each.passed)
    gates = f"failed: {failed}" if failed else "passed" if trial.verdicts else "not asked"
    size, latency = f"{figures.model_bytes / 1024:.0f}", f"{figures.latency_ms:.3f}"
    mark, right, ratio = pictures.CHOSEN if chosen else "", f"{figures.accuracy:.2%}", f"{figures.latency_ratio:.2f} ×"
    return mark, trial.recipe, right, size, latency, ratio, gates
