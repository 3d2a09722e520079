"""`skerry`: the operator's command line. Everything that it does is a call of the API."""

import base64
import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from platform import machine
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from skerry_cloud.api_client import CloudClient
from skerry_cloud.compress import picture as pictures
from skerry_cloud.compress.study import Search, Study, Trial
from skerry_shared import bundle
from skerry_shared.config import decode
from skerry_shared.errors import DigestError, GateError, SkerryError, UsageError

if TYPE_CHECKING:
    from skerry_shared.testing import oip

MAP = """Train, compress, sign, roll out, watch and retrain models on a fleet of devices.

out:   data → train → compress → publish → rollout ══ signed release ══▶ devices

back:  retrain ◀ drift ◀ ingest ◀═══════ sealed telemetry ═══════════════ devices

Start with `skerry-cloud init` and `skerry-cloud serve`; the README walks through the loop in ten minutes.
"""

console = Console()
app = typer.Typer(
    help=MAP, no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False
)
data = typer.Typer(help="Dataset versions: ingest, validate, split, number.", no_args_is_help=True)
run = typer.Typer(help="Training runs and what compression made of them.", no_args_is_help=True)
model = typer.Typer(help="Models that were made elsewhere.", no_args_is_help=True)
release = typer.Typer(help="Published releases and their lineage.", no_args_is_help=True)
device = typer.Typer(help="Announce devices, see what they run, take it off, revoke them.", no_args_is_help=True)
rollout = typer.Typer(help="Bring a release to devices: a canary first, then the rest.", no_args_is_help=True)
drift = typer.Typer(help="Alarms: which device's traffic changed, what in it, since when.", no_args_is_help=True)

lake = typer.Typer(help="What telemetry became: SQL over it, its tables, its limits.", no_args_is_help=True)
label = typer.Typer(help="Labels for what drifted: which to give, giving them, what they say.", no_args_is_help=True)

retrain = typer.Typer(help="What the retraining policy does, and why it does not.", no_args_is_help=True)

OUT, BACK, LOOK = "Out: from data to devices", "Back: from devices to the next model", "Look"
app.add_typer(data, name="data", rich_help_panel=OUT)
app.add_typer(model, name="model", rich_help_panel=OUT)

SHOWN = 100  # rows of a query in a terminal
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


@data.command("add")
def data_add(context: typer.Context, workload: str, as_json: Json = False) -> None:
    """Ingest a workload's own data as its next dataset version.

    Example: skerry data add fashion
    """
    done = _work(_cloud(context).work("/datasets", workload=workload), as_json)
    _result(
        done, as_json, f"dataset {done['workload']}@{done['number']}: {done['rows']} rows, sha256 {done['sha256'][:12]}"
    )


@data.command("list")
def data_list(context: typer.Context, as_json: Json = False) -> None:
    """Dataset versions of all workloads."""
    rows = _cloud(context).get("/datasets")
    _list(rows, as_json, {
        "dataset": lambda r: f"{r['workload']}@{r['number']}", "rows": "rows", "parent": "parent",
        "sources": lambda r: ", ".join(f"{k}: {v}" for k, v in r["sources"].items()), "created": _when("created"),
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
    work = _cloud(context).work("/runs", workload=workload, dataset=dataset, epochs=epochs, parent=parent)
    done = _work(work, as_json)
    _result(done, as_json, f"run {done['id']}: accuracy {done['accuracy']:.2%} on held-out data")


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
    work = _cloud(context).send("/models", file, workload=workload, dataset=dataset, scores=scores)
    done = _work(work, as_json)
    _result(done, as_json, f"run {done['id']}: {file.name} imported, accuracy {done['accuracy']:.2%} on held-out data")


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
    cloud = _cloud(context)
    try:
        done = _work(cloud.work(f"/runs/{run}/variants", **wanted), as_json)
    except GateError:
        if report:
            _save_report(cloud, run, report)
        raise
    if report:
        _save_report(cloud, run, report)
    study = decode(Study, done["study"], "study")
    if picture:
        pictures.png(study, picture)
    _result(done, as_json, f"run {run}: {len(done['variants'])} variants")
    if not as_json:
        for search in study.searches:
            _print_search(study, search)


@app.command(rich_help_panel=OUT)
def publish(context: typer.Context, run: int, reason: Reason = "by the operator", as_json: Json = False) -> None:
    """Sign a compressed run's bundles and publish them as the workload's next release.

    Example: skerry publish 1
    """
    done = _cloud(context).post("/releases", run=run, reason=reason)
    _result(done, as_json, f"release {done['workload']}/{done['number']} of run {run} is published")


@run.command("list")
def run_list(context: typer.Context, as_json: Json = False) -> None:
    """All training runs, with the minutes that they took and what these cost."""
    _list(_cloud(context).get("/runs"), as_json, {
        "run": "id", "workload": "workload", "dataset": "dataset", "parent": "parent", "state": "state",
        "accuracy": lambda r: f"{r['accuracy']:.2%}", "minutes": _minutes, "cost": _cost, "created": _when("created"),
        "reason": "reason",
    })  # fmt: skip


@run.command("show")
def run_show(context: typer.Context, run: int, as_json: Json = False) -> None:
    """A run with the figures of its variants."""
    _show(_cloud(context).get(f"/runs/{run}"), as_json)


@run.command("report")
def run_report(context: typer.Context, run: int, file: Annotated[Path, typer.Argument(metavar="FILE.html")]) -> None:
    """Save what compression tried, measured and chose: one page of HTML that needs no network.

    Example: skerry run report 1 report.html
    """
    _save_report(_cloud(context), run, file)


@release.command("list")
def release_list(context: typer.Context, as_json: Json = False) -> None:
    """All published releases."""
    _list(_cloud(context).get("/releases"), as_json, {
        "release": lambda r: f"{r['workload']}/{r['number']}", "run": "run", "owner": "owner",
        "created": _when("created"), "reason": "reason",
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
    """A release, its bundles and, with --lineage, where it comes from.

    Example: skerry release show fashion/2 --lineage
    """
    workload, number = _release_name(name)
    found = _cloud(context).get(f"/releases/{workload}/{number}")
    if report:
        _save_report(_cloud(context), found["run"], report)
    if as_json or not lineage:
        return _show(found["lineage"] if lineage else found, as_json)
    for depth, step in enumerate(found["lineage"]):
        details = ", ".join(f"{k} {_short(v)}" for k, v in step.items() if k not in ("kind", "name", "time", "why"))
        console.print(f"{'  ' * min(depth, 8)}[bold]{step['kind']}[/] {step['name']}  [dim]{_time(step['time'])}[/]  "
                      f"{escape(step['why'])}{f'  [dim]({escape(details)})[/]' if details else ''}")  # fmt: skip
    return None


@device.command("add")
def device_add(
    context: typer.Context,
    name: str,
    profile: Annotated[str, typer.Option(help="What kind of device it is; auto: it will say.")] = "generic-x86-64",
    group: Annotated[str, typer.Option(help="A site, a line, a batch: drift is looked for in it as a whole too.")] = "",
    as_json: Json = False,
) -> None:
    """Announce a device and print its one-time enrolment token.

    Example: skerry device add edge-1 --profile generic-x86-64 --group hall-2
    """
    done = _cloud(context).post("/devices", name=name, profile=profile, group=group)
    _result(done, as_json, done["token"])


@device.command("list")
def device_list(context: typer.Context, as_json: Json = False) -> None:
    """All devices and what they run."""
    _list(_cloud(context).get("/devices"), as_json, {
        "device": "name", "profile": "profile", "group": "group", "state": "state",
        "link": lambda r: r["link"] or "offline",
        "runs": lambda r: ", ".join(f"{m['workload']}/{m['release']}" for m in r["runs"]) or "nothing",
        "seen": _when("seen"),
    })  # fmt: skip


@device.command("show")
def device_show(context: typer.Context, name: str, as_json: Json = False) -> None:
    """A device with what it runs and all its assignments."""
    _show(_cloud(context).get(f"/devices/{name}"), as_json)


@device.command("group")
def device_group(
    context: typer.Context, name: str, group: Annotated[str, typer.Argument(help="None: in no group.")] = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Put a device into a group: a site, a line, a batch. Drift is looked for in each group as a whole, too.

    Example: skerry device group edge-1 hall-2
    """
    done = _cloud(context).post(f"/devices/{name}/group", group=group)
    _result(done, as_json, f"device {name} is in {f'group {group}' if group else 'no group'}")


@device.command("drop")
def device_drop(
    context: typer.Context, name: str, workload: str, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Take a workload off a device. Its other models go on; rollouts pass it by until one names it with --device.

    Example: skerry device drop edge-1 digits
    """
    done = _cloud(context).post(f"/devices/{name}/drop", workload=workload, reason=reason)
    _result(done, as_json, f"device {name} is told to drop {workload}; `skerry device show {name}` says when it has")


@device.command("revoke")
def device_revoke(context: typer.Context, name: str, as_json: Json = False) -> None:
    """Shut a device out: its certificate no longer opens a link."""
    _result(_cloud(context).delete(f"/devices/{name}"), as_json, f"device {name} is revoked")


@rollout.command("start")
def rollout_start(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="WORKLOAD/NUMBER")],
    canary: Annotated[int, typer.Option(help="Devices in the first wave.")] = 1,
    wave_minutes: Annotated[float, typer.Option(help="A wave that is not healthy by then halts the rollout.")] = 60.0,
    device: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Answer beside what serves, report, never switch.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 1 if it halts.")] = False,
    as_json: Json = False,
) -> None:
    """Start bringing a release to the devices that can run it. Models of other workloads on them stay as they are.

    Left out, unless --device names them: devices that run it already, and those that were told to drop the workload.

    Example: skerry rollout start fashion/1 --canary 1 --wait
    """
    workload, number = _release_name(name)
    done = _cloud(context).post("/rollouts", workload=workload, release=number, canary=canary,
                                wave_seconds=wave_minutes * 60, devices=device or [],
                                mode="shadow" if shadow else "serve")  # fmt: skip
    canaries = ", ".join(done["waves"][0])
    if not wait:
        hint = f"follow it with `skerry rollout show {done['id']}`"
        return _result(done, as_json, f"rollout {done['id']}: canary {canaries}; {hint}")
    done = _follow_rollout(_cloud(context), done["id"], as_json)
    _result(done, as_json, f"rollout {done['id']}: {done['state']}, {done['reason']}")
    if done["state"] != "done":
        raise typer.Exit(1)
    return None


@rollout.command("list")
def rollout_list(context: typer.Context, as_json: Json = False) -> None:
    """All rollouts."""
    _list(_cloud(context).get("/rollouts"), as_json, {
        "rollout": "id", "release": lambda r: f"{r['workload']}/{r['release']}", "mode": "mode", "state": "state",
        "wave": lambda r: f"{r['wave'] + 1} of {len(r['waves'])}", "started": _when("created"), "reason": "reason",
    })  # fmt: skip


@rollout.command("show")
def rollout_show(context: typer.Context, number: int, as_json: Json = False) -> None:
    """A rollout and where each device stands."""
    found = _cloud(context).get(f"/rollouts/{number}")
    if as_json:
        return _show(found, True)
    name = f"{found['workload']}/{found['release']}"
    console.print(f"rollout {number} of {name}: [bold]{found['state']}[/]  {escape(found['reason'])}")
    _list(
        found["devices"], False, {"device": "device", "state": "state", "updated": _when("updated"), "reason": "reason"}
    )
    return None


@rollout.command("halt")
def rollout_halt(
    context: typer.Context, number: int, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Halt a rollout; devices that already run the release get back what they ran before."""
    _result(_cloud(context).post(f"/rollouts/{number}/halt", reason=reason), as_json, f"rollout {number} is halted")


@drift.command("list")
def drift_list(context: typer.Context, as_json: Json = False) -> None:
    """All alarms."""
    _list(_cloud(context).get("/alarms"), as_json, {
        "alarm": "id", "where": _alarm_place, "release": lambda r: f"{r['workload']}/{r['release']}", "kind": "kind",
        "state": "state", "health": "health", "owner": "owner", "since": _when("since"), "raised": _when("raised"),
        "what": "summary",
    })  # fmt: skip


@drift.command("show")
def drift_show(context: typer.Context, number: int, as_json: Json = False) -> None:
    """An alarm: the channels that drifted, how strong the evidence is, what was done about it, and who was told."""
    found = _cloud(context).get(f"/alarms/{number}")
    if as_json:
        return _show(found, True)
    console.print(f"alarm {number} on [bold]{_alarm_place(found)}[/], {found['state']}: {escape(found['summary'])}")
    console.print(f"  owner: {escape(found['owner'] or 'nobody')}")
    if found["level"] != "device":
        console.print(f"  devices: {', '.join(found['devices'])}")
    strongest = max((c["evidence"] for c in found["detail"]["channels"]), default=1.0)
    for channel in found["detail"]["channels"]:
        bar = "█" * max(1, round(30 * channel["evidence"] / strongest))
        console.print(
            f"  {channel['channel']:>18} [red]{bar}[/] once in 10^{channel['evidence']:.1f} days  "
            f"{escape(channel['fault'] or channel['direction'])}, {channel['shift']:+.2f} sd: "
            f"{escape(channel['now'])}, usually {escape(channel['usual'])}"
        )
    _print_accuracy(found["accuracy"])
    for event in found["history"]:
        console.print(f"  {escape(event_line(event))}", highlight=False)
    for one in found["told"]:
        why = f": {one['error']}" if one["error"] else ""
        console.print(f"  {one['what']}, by route {one['route']}: {one['state']}{escape(why)}")
    return None


@drift.command("ack")
def drift_ack(
    context: typer.Context,
    number: int,
    owner: Annotated[str, typer.Option(help="Who looks into it; else its owner stays.")] = "",
    reason: Reason = "by the operator",
    as_json: Json = False,
) -> None:
    """Say that somebody looks into an alarm: it escalates no further.

    Example: skerry drift ack 3 --owner ada@example.org --reason "on my way to the camera"
    """
    done = _cloud(context).post(f"/alarms/{number}/acknowledge", owner=owner, reason=reason)
    _result(done, as_json, f"alarm {number} is acknowledged; {done['owner'] or 'nobody'} owns it")


@drift.command("assign")
def drift_assign(
    context: typer.Context, number: int, owner: str, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Give an alarm to another owner: a name, or an address that mails reach."""
    done = _cloud(context).post(f"/alarms/{number}/assign", owner=owner, reason=reason)
    _result(done, as_json, f"alarm {number} is {done['owner']}'s")


@drift.command("resolve")
def drift_resolve(
    context: typer.Context, number: int, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Close an alarm: its place is judged anew from now on."""
    done = _cloud(context).post(f"/alarms/{number}/resolve", reason=reason)
    _result(done, as_json, f"alarm {number} is resolved")


@drift.command("rebase")
def drift_rebase(
    context: typer.Context,
    workload: str,
    reason: Annotated[str, typer.Option(help="Why this is normal now; kept in the event and the lineage.")],
    device: Annotated[str, typer.Option(help="Only on this device.")] = "",
    group: Annotated[str, typer.Option(help="Only in this group.")] = "",
    hours: Annotated[float, typer.Option(help="What was sent in the last hours, which you have reviewed.")] = 24.0,
    release: Annotated[int, typer.Option(help="0 is the newest.")] = 0,
    as_json: Json = False,
) -> None:
    """After a change that is meant to stay: what devices sent lately becomes what their traffic is compared with.

    Alarms of that place are resolved. `skerry drift unbase` takes it back. The next release has a reference of its own.

    Example: skerry drift rebase fashion --device edge-1 --hours 6 --reason "new lamp, pictures looked at"
    """
    if device and group:
        raise UsageError("rebase: name a device or a group, or neither for the whole fleet")
    level = "device" if device else "group" if group else "fleet"
    done = _cloud(context).post("/baselines", workload=workload, level=level, name=device or group, hours=hours,
                                reason=reason, release=release)  # fmt: skip
    where = f"{_alarm_place(done)}: {workload}/{done['release']}"
    _result(done, as_json, f"baseline {done['id']} is in force on {where}; back: skerry drift unbase {done['id']}")


@drift.command("unbase")
def drift_unbase(
    context: typer.Context, number: int, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Take a baseline back: traffic is compared with what was normal before."""
    done = _cloud(context).post(f"/baselines/{number}/take-back", reason=reason)
    _result(done, as_json, f"baseline {number} is {done['state']}")


@drift.command("baselines")
def drift_baselines(context: typer.Context, as_json: Json = False) -> None:
    """What was put in the place of a release's own reference, and taken back."""
    _list(_cloud(context).get("/baselines"), as_json, {
        "baseline": "id", "where": _alarm_place, "release": lambda r: f"{r['workload']}/{r['release']}",
        "state": "state", "since": _when("since"), "created": _when("created"), "reason": "reason",
    })  # fmt: skip


@label.command("next")
def label_next(
    context: typer.Context,
    alarm: int,
    count: Annotated[int, typer.Option(help="How many; 200 tell the accuracy to 2 or 3 points.")] = 10,
    folder: Annotated[Path | None, typer.Option(help="Write inputs here, an .npy each, and a labels.csv.")] = None,
    as_json: Json = False,
) -> None:
    """Samples of an alarm's devices whose truth nobody told yet, drawn at random.

    With --folder, fill in the column "label" of its labels.csv and give it to `skerry label set`.

    Example: skerry label next 3 --count 50 --folder to-label
    """
    found = _cloud(context).get(f"/alarms/{alarm}/labels?count={count}")
    if folder:
        _write_samples(found, folder)
    if as_json:
        return _show(found, True)
    console.print(f"labels: {', '.join(found['labels'])}")
    _list(found["samples"], False, {
        "device": "device", "prediction": "prediction_id", "time": _when("time"), "answered": "answer",
    })  # fmt: skip
    return None


@label.command("set")
def label_set(
    context: typer.Context,
    alarm: int,
    device: Annotated[str, typer.Argument()] = "",
    prediction: Annotated[str, typer.Argument()] = "",
    truth: Annotated[str, typer.Argument(metavar="[LABEL]")] = "",
    file: Annotated[Path | None, typer.Option(help="CSV with device, prediction_id, label; no label: skipped.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what sampled inputs really were, by hand or by file. The last label counts.

    Example: skerry label set 3 edge-1 01J9… boot
    """
    if file is None and not (device and prediction and truth):
        raise UsageError("label: name device, prediction and label, or a --file with many")
    one = {"device": device, "prediction_id": prediction, "label": truth}
    done = _cloud(context).post(f"/alarms/{alarm}/labels", labels=_read_labels(file) if file else [one])
    _result(done, as_json, f"{done['labels']} labels are taken; see `skerry label list {alarm}`")


@label.command("list")
def label_list(context: typer.Context, alarm: int, as_json: Json = False) -> None:
    """What an alarm's labels say: accuracy before and now, with an interval that holds however often you look."""
    found = _cloud(context).get(f"/alarms/{alarm}")
    if as_json:
        return _show(found["accuracy"], True)
    console.print(f"alarm {alarm}, {found['health']}: {escape(found['summary'])}")
    _print_accuracy(found["accuracy"])
    return None


@retrain.command("list")
def retrain_list(context: typer.Context, as_json: Json = False) -> None:
    """What the policy began, why, how it ended, and what it cost."""
    _list(_cloud(context).get("/retrainings")["retrainings"], as_json, {
        "retraining": "id", "champion": lambda r: f"{r['workload']}/{r['champion']}", "state": "state", "run": "run",
        "release": lambda r: r["published"] or "", "minutes": _minutes, "cost": _cost, "began": _when("began"),
        "reason": "reason",
    })  # fmt: skip


@retrain.command("why")
def retrain_why(context: typer.Context, as_json: Json = False) -> None:
    """What the policy in skerry-cloud.toml said of each workload when it last looked: why it retrains, or waits.

    A workload that gave it no reason to look is not here.
    """
    _list(_cloud(context).get("/retrainings")["verdicts"], as_json, {
        "workload": "workload", "retrains": lambda r: "yes" if r["retrain"] else "no", "why": "reason",
    })  # fmt: skip


@app.command(rich_help_panel=LOOK)
def cost(context: typer.Context, as_json: Json = False) -> None:
    """Minutes and money by month and workload; `[retrain] price_per_minute` says what a minute costs."""
    _list(_cloud(context).get("/costs"), as_json, {
        "month": lambda r: _time(r["month"])[:7], "workload": "workload", "runs": "runs", "minutes": _minutes,
        "cost": _cost,
    })  # fmt: skip


@app.command(rich_help_panel=LOOK)
def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")] = False,
    after: Annotated[int, typer.Option(help="Only events with a higher id.")] = 0,
    as_json: Json = False,
) -> None:
    """Every change of state: who or what, when, from, to, why."""
    cloud = _cloud(context)
    found = cloud.lines(f"/events?after={after}&follow=1") if follow else cloud.get(f"/events?after={after}")
    for event in found:
        typer.echo(json.dumps(event) if as_json else event_line(event))


@app.command(rich_help_panel=BACK)
def telemetry(context: typer.Context, as_json: Json = False) -> None:
    """What came home: rows in the lake for each device, and requests that could not be answered at once."""
    found = _cloud(context).get("/telemetry")
    counts = {name: name for name in ("windows", "samples", "labels", "events", "shadow", "load", "measured")}
    _list(found, as_json, {"device": "device", **counts, "newest": _when("newest")})
    overload = [{"device": row["device"], **one} for row in found for one in row["overload"]]
    if overload and not as_json:
        console.print("\n[bold]Under load[/]: requests that waited, were shed or expired; connections refused")
        _list(overload, False, {
            "device": "device", "model": lambda r: f"{r['workload']}/{r['release']}" if r["workload"] else "all",
            **{name: name for name in ("waited", "shared", "shed", "expired", "refused")}, "until": _when("until"),
        })  # fmt: skip


@lake.command("query")
def lake_query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT, in DuckDB's SQL.")],
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Save all rows as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="Save all rows as Parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Ask the lake in SQL, read only, over hot and cold rows alike; `skerry lake tables` names its tables.

    `DESCRIBE samples` names a table's columns. Bytes are base64 in CSV and JSON.

    Example: skerry lake query "SELECT device, count(*) AS rows FROM windows GROUP BY device"
    """
    from skerry_cloud import results

    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.arrows"
        _cloud(context).save(answer, "/lake/query", sql=sql)
        for file, save in ((csv_file, results.to_csv), (parquet, results.to_parquet)):
            if file:
                _result(None, False, f"{save(answer, file)} rows are in {file}")
        if not (csv_file or parquet):
            rows, more = results.rows(answer, None if as_json else SHOWN)
            _list(rows, as_json, {name: name for name in results.names(answer)})
            if more:
                console.print(f"[dim]and {more} more rows; --json, --csv or --parquet FILE gives all[/]")


@lake.command("tables")
def lake_tables(context: typer.Context, as_json: Json = False) -> None:
    """The lake's tables: what is in them, since when, and which version of each there is."""
    _list(_cloud(context).get("/lake"), as_json, {
        "table": "table", "rows": "rows", "files": "files", "KB": lambda r: f"{r['bytes'] / 1024:.0f}",
        "cold KB": lambda r: f"{r['cold_bytes'] / 1024:.0f}", "version": "version", "first": _when("first"),
        "last": _when("last"),
    })  # fmt: skip


@lake.command("quarantine")
def lake_quarantine(context: typer.Context, as_json: Json = False) -> None:
    """Batches that devices sent and that fit no table: of whom, how many, why. They are kept as they came.

    Example: skerry lake query "SELECT payload FROM quarantine WHERE device = 'pump-7'" --parquet bad.parquet
    """
    _list(_cloud(context).get("/lake/quarantine"), as_json, {
        "device": "device", "table": "table", "batches": "batches", "bytes": "bytes", "first": _when("first"),
        "last": _when("last"), "reason": "reason",
    })  # fmt: skip


@lake.command("maintain")
def lake_maintain(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Compact small files, move and delete rows as [lake] in skerry-cloud.toml says: now, not within the hour."""
    done = _work(_cloud(context).work("/lake/maintain", dry_run=dry_run), as_json)["tables"]
    _list(done, as_json, {
        "table": "table", "files compacted": "compacted_files", "rows moved": "moved_rows",
        "rows deleted": "deleted_rows", "files vacuumed": "vacuumed_files",
    })  # fmt: skip


@app.command(rich_help_panel=LOOK)
def workloads(context: typer.Context, as_json: Json = False) -> None:
    """The workloads that this cloud knows: built in, by entry point, or by path in skerry-cloud.toml."""
    _list(_cloud(context).get("/workloads"), as_json, {"workload": "name"})


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

    cloud, (source, out) = _cloud(context), batch
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True), disable=as_json) as bars:
        unpacked = _fetch_bundle(cloud, release, profile, Path(folder))
        task = bars.add_task(f"infer {source.name}")
        show = lambda done, total: bars.update(task, completed=done, total=total)  # noqa: E731
        rows = bulk.answer(source, out, unpacked, show, size)
    _result({"rows": rows, "folder": str(out)}, as_json, f"{rows} rows of {source} are answered in {out}")


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


for group, name, panel in (
    (rollout, "rollout", OUT), (device, "device", OUT), (lake, "lake", BACK), (drift, "drift", BACK),
    (label, "label", BACK), (retrain, "retrain", BACK), (run, "run", LOOK), (release, "release", LOOK),
):  # fmt: skip
    app.add_typer(group, name=name, rich_help_panel=panel)


def event_line(event: dict[str, Any]) -> str:
    """One event as one line of a timeline."""
    change = f"{event['before']} → {event['after']}" if event["before"] else event["after"]
    why = f"  ({event['reason']})" if event["reason"] else ""
    return f"{_time(event['time'])}  {event['kind']:<8} {event['name']:<24} {change}{why}  by {event['actor']}"


def main() -> None:
    """Run the program: 0 done, 1 failed or refused, 2 used wrongly."""
    try:
        app()
    except (SkerryError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        print(f"skerry: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _cloud(context: typer.Context) -> CloudClient:
    client: CloudClient = context.obj()
    return client


def _work(lines: Iterator[dict[str, Any]], quiet: bool) -> dict[str, Any]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    stages: dict[str, Any] = {}
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=quiet) as bars:
        for line in lines:
            if "result" in line:
                for task in stages.values():
                    bars.update(task, total=1, completed=1)
                result: dict[str, Any] = line["result"]
                return result
            if line["stage"] not in stages:
                stages[line["stage"]] = bars.add_task(line["stage"], note="")
            task = stages[line["stage"]]
            bars.update(task, total=line["total"] or None, completed=line["done"], note=line["note"])
    raise SkerryError("the cloud ended the work without a result")


def _fetch_bundle(cloud: CloudClient, release: str, profile: str, folder: Path) -> bundle.Bundle:
    """The release's bundle for this profile, or for one whose models run on machines like this one."""
    workload, number = _release_name(release)
    found = {row["profile"]: row for row in cloud.get(f"/releases/{workload}/{number}")["bundles"]}
    fitting = [name for name, row in found.items() if json.loads(row["manifest"])["target"]["arch"] == machine()]
    chosen = profile or next(iter(fitting), "")
    if chosen not in found:
        raise UsageError(f"profile: {release} has none for {chosen or machine()}; choose of {', '.join(found)}")
    data = cloud.page(f"/releases/{workload}/{number}/bundles/{chosen}")
    if bundle.digest(data) != found[chosen]["sha256"]:
        raise DigestError(f"{release}: the bundle for {chosen} is not what was signed")
    return bundle.unpack(data, folder / "bundle")


def _save_report(cloud: CloudClient, run: int, file: Path) -> None:
    file.write_bytes(cloud.page(f"/runs/{run}/report"))
    print(f"report of run {run}: {file}", file=sys.stderr)  # noqa: T201


def _follow_rollout(cloud: CloudClient, number: int, quiet: bool) -> dict[str, Any]:
    """Show a rollout's events until it is over; the rollout."""
    for event in cloud.lines("/events?follow=1"):
        if event["kind"] != "rollout" or event["name"].split()[0] != str(number):
            continue
        if not quiet:
            typer.echo(event_line(event))
        if event["after"] in ("done", "halted"):
            break
    found: dict[str, Any] = cloud.get(f"/rollouts/{number}")
    return found


def _result(document: Any, as_json: bool, line: str) -> None:
    typer.echo(json.dumps(document) if as_json else line)


def _show(document: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document))
    else:
        console.print_json(data=document)


def _list(rows: list[dict[str, Any]], as_json: bool, columns: dict[str, str | Callable[[dict[str, Any]], str]]) -> None:
    if as_json:
        return typer.echo(json.dumps(rows))
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        cells = (row[c] if isinstance(c, str) else c(row) for c in columns.values())
        table.add_row(*(escape(str(cell)) for cell in cells))
    console.print(table if rows else "[dim]none[/]")
    return None


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


def _print_accuracy(told: dict[str, Any]) -> None:
    console.print(f"  accuracy before: {told['before']:.1%}")
    for name, how in (("now", "by {size} labels"), ("guess", "guessed without labels, by {size} confidences")):
        if found := told[name]:
            interval = f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
            console.print(f"  accuracy now: {interval} {how.format(size=found['size'])}")


def _write_samples(found: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["device", "prediction_id", "file", "answer", "label"])
        for number, row in enumerate(found["samples"]):
            name = f"{number:03}.npy"
            raw = np.frombuffer(base64.b64decode(row["input"]), found["dtype"]).reshape(found["shape"])
            np.save(folder / name, raw, allow_pickle=False)
            table.writerow([row["device"], row["prediction_id"], name, row["answer"], ""])


def _read_labels(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = ("device", "prediction_id", "label")
    if rows and not rows[0].keys() >= set(wanted):
        raise UsageError(f"{path}: needs the columns {', '.join(wanted)}")
    return [{name: row[name] for name in wanted} for row in rows if row["label"]]


def _alarm_place(alarm: dict[str, Any]) -> str:
    return {"device": "", "group": "group ", "fleet": "fleet"}[alarm["level"]] + str(alarm["name"])


def _release_name(name: str) -> tuple[str, int]:
    workload, _, number = name.partition("/")
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"release: {name!r} is not WORKLOAD/NUMBER, as in fashion/1")
    return workload, int(number)


def _minutes(row: dict[str, Any]) -> str:
    return f"{row['seconds'] / 60:.1f}"


def _cost(row: dict[str, Any]) -> str:
    return f"{row['cost']:.2f}"


def _when(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: _time(row[key]) if row[key] else "never"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(item)}" for key, item in value.items())
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
