"""What came home and what follows from it: `skerry drift|label|retrain|cost|telemetry|lake`."""

import base64
import csv
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from skerry_cloud.cli.app import BACK, LOOK, Json, Reason, app
from skerry_cloud.cli.terminal import (
    cloud_of,
    console,
    cost_of,
    event_line,
    follow,
    listed,
    minutes_of,
    show,
    tell,
    time_of,
    when,
)
from skerry_shared.errors import UsageError

SHOWN = 100  # rows of a query in a terminal
drift = typer.Typer(help="Alarms: which device's traffic changed, what in it, since when.", no_args_is_help=True)
label = typer.Typer(help="Labels for what drifted: which to give, giving them, what they say.", no_args_is_help=True)
retrain = typer.Typer(help="What the retraining policy does, and why it does not.", no_args_is_help=True)
lake = typer.Typer(help="What telemetry became: SQL over it, its tables, its limits.", no_args_is_help=True)
app.add_typer(drift, name="drift", rich_help_panel=BACK)
app.add_typer(label, name="label", rich_help_panel=BACK)
app.add_typer(retrain, name="retrain", rich_help_panel=BACK)
app.add_typer(lake, name="lake", rich_help_panel=BACK)


@drift.command("list")
def drift_list(context: typer.Context, as_json: Json = False) -> None:
    """All alarms."""
    listed(cloud_of(context).get("/alarms"), as_json, {
        "alarm": "id", "where": _alarm_place, "release": lambda r: f"{r['workload']}/{r['release']}", "kind": "kind",
        "state": "state", "health": "health", "owner": "owner", "since": when("since"), "raised": when("raised"),
        "what": "summary",
    })  # fmt: skip


@drift.command("show")
def drift_show(context: typer.Context, number: int, as_json: Json = False) -> None:
    """An alarm: the channels that drifted, how strong the evidence is, what was done about it, and who was told."""
    found = cloud_of(context).get(f"/alarms/{number}")
    if as_json:
        return show(found, True)
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
    done = cloud_of(context).post(f"/alarms/{number}/acknowledge", owner=owner, reason=reason)
    tell(done, as_json, f"alarm {number} is acknowledged; {done['owner'] or 'nobody'} owns it")


@drift.command("assign")
def drift_assign(
    context: typer.Context, number: int, owner: str, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Give an alarm to another owner: a name, or an address that mails reach."""
    done = cloud_of(context).post(f"/alarms/{number}/assign", owner=owner, reason=reason)
    tell(done, as_json, f"alarm {number} is {done['owner']}'s")


@drift.command("resolve")
def drift_resolve(
    context: typer.Context, number: int, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Close an alarm: its place is judged anew from now on."""
    done = cloud_of(context).post(f"/alarms/{number}/resolve", reason=reason)
    tell(done, as_json, f"alarm {number} is resolved")


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
    done = cloud_of(context).post("/baselines", workload=workload, level=level, name=device or group, hours=hours,
                                reason=reason, release=release)  # fmt: skip
    where = f"{_alarm_place(done)}: {workload}/{done['release']}"
    tell(done, as_json, f"baseline {done['id']} is in force on {where}; back: skerry drift unbase {done['id']}")


@drift.command("unbase")
def drift_unbase(
    context: typer.Context, number: int, reason: Reason = "by the operator", as_json: Json = False
) -> None:
    """Take a baseline back: traffic is compared with what was normal before."""
    done = cloud_of(context).post(f"/baselines/{number}/take-back", reason=reason)
    tell(done, as_json, f"baseline {number} is {done['state']}")


@drift.command("baselines")
def drift_baselines(context: typer.Context, as_json: Json = False) -> None:
    """What was put in the place of a release's own reference, and taken back."""
    listed(cloud_of(context).get("/baselines"), as_json, {
        "baseline": "id", "where": _alarm_place, "release": lambda r: f"{r['workload']}/{r['release']}",
        "state": "state", "since": when("since"), "created": when("created"), "reason": "reason",
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
    found = cloud_of(context).get(f"/alarms/{alarm}/labels?count={count}")
    if folder:
        _write_samples(found, folder)
    if as_json:
        return show(found, True)
    console.print(f"labels: {', '.join(found['labels'])}")
    listed(found["samples"], False, {
        "device": "device", "prediction": "prediction_id", "time": when("time"), "answered": "answer",
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
    done = cloud_of(context).post(f"/alarms/{alarm}/labels", labels=_read_labels(file) if file else [one])
    tell(done, as_json, f"{done['labels']} labels are taken; see `skerry label list {alarm}`")


@label.command("list")
def label_list(context: typer.Context, alarm: int, as_json: Json = False) -> None:
    """What an alarm's labels say: accuracy before and now, with an interval that holds however often you look."""
    found = cloud_of(context).get(f"/alarms/{alarm}")
    if as_json:
        return show(found["accuracy"], True)
    console.print(f"alarm {alarm}, {found['health']}: {escape(found['summary'])}")
    _print_accuracy(found["accuracy"])
    return None


@retrain.command("list")
def retrain_list(context: typer.Context, as_json: Json = False) -> None:
    """What the policy began, why, how it ended, and what it cost."""
    listed(cloud_of(context).get("/retrainings")["retrainings"], as_json, {
        "retraining": "id", "champion": lambda r: f"{r['workload']}/{r['champion']}", "state": "state", "run": "run",
        "release": lambda r: r["published"] or "", "minutes": minutes_of, "cost": cost_of, "began": when("began"),
        "reason": "reason",
    })  # fmt: skip


@retrain.command("why")
def retrain_why(context: typer.Context, as_json: Json = False) -> None:
    """What the policy in skerry-cloud.toml said of each workload when it last looked: why it retrains, or waits.

    A workload that gave it no reason to look is not here.
    """
    listed(cloud_of(context).get("/retrainings")["verdicts"], as_json, {
        "workload": "workload", "retrains": lambda r: "yes" if r["retrain"] else "no", "why": "reason",
    })  # fmt: skip


@app.command(rich_help_panel=LOOK)
def cost(context: typer.Context, as_json: Json = False) -> None:
    """Minutes and money by month and workload; `[cost] per_minute` says what a minute costs."""
    listed(cloud_of(context).get("/costs"), as_json, {
        "month": lambda r: time_of(r["month"])[:7], "workload": "workload", "runs": "runs", "minutes": minutes_of,
        "cost": cost_of,
    })  # fmt: skip


@app.command(rich_help_panel=BACK)
def telemetry(context: typer.Context, as_json: Json = False) -> None:
    """What came home: rows in the lake for each device, and requests that could not be answered at once."""
    found = cloud_of(context).get("/telemetry")
    counts = {
        name: name for name in ("windows", "samples", "labels", "events", "shadow", "load", "service", "measured")
    }
    listed(found, as_json, {"device": "device", **counts, "newest": when("newest")})
    overload = [{"device": row["device"], **one} for row in found for one in row["overload"]]
    if overload and not as_json:
        console.print("\n[bold]Under load[/]: requests that waited, were shed or expired; connections refused")
        listed(overload, False, {
            "device": "device", "model": lambda r: f"{r['workload']}/{r['release']}" if r["workload"] else "all",
            **{name: name for name in ("waited", "shared", "shed", "expired", "refused")}, "until": when("until"),
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
        cloud_of(context).save(answer, "/lake/query", sql=sql)
        for file, save in ((csv_file, results.to_csv), (parquet, results.to_parquet)):
            if file:
                tell(None, False, f"{save(answer, file)} rows are in {file}")
        if not (csv_file or parquet):
            rows, more = results.rows(answer, None if as_json else SHOWN)
            listed(rows, as_json, {name: name for name in results.names(answer)})
            if more:
                console.print(f"[dim]and {more} more rows; --json, --csv or --parquet FILE gives all[/]")


@lake.command("tables")
def lake_tables(context: typer.Context, as_json: Json = False) -> None:
    """The lake's tables: what is in them, since when, and which version of each there is."""
    listed(cloud_of(context).get("/lake"), as_json, {
        "table": "table", "rows": "rows", "files": "files", "KB": lambda r: f"{r['bytes'] / 1024:.0f}",
        "cold KB": lambda r: f"{r['cold_bytes'] / 1024:.0f}", "version": "version", "first": when("first"),
        "last": when("last"),
    })  # fmt: skip


@lake.command("quarantine")
def lake_quarantine(context: typer.Context, as_json: Json = False) -> None:
    """Batches that devices sent and that fit no table: of whom, how many, why. They are kept as they came.

    Example: skerry lake query "SELECT payload FROM quarantine WHERE device = 'pump-7'" --parquet bad.parquet
    """
    listed(cloud_of(context).get("/lake/quarantine"), as_json, {
        "device": "device", "table": "table", "batches": "batches", "bytes": "bytes", "first": when("first"),
        "last": when("last"), "reason": "reason",
    })  # fmt: skip


@lake.command("maintain")
def lake_maintain(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Compact small files, move and delete rows as [lake] in skerry-cloud.toml says: now, not within the hour."""
    done = follow(cloud_of(context).work("/lake/maintain", dry_run=dry_run), as_json)["tables"]
    listed(done, as_json, {
        "table": "table", "files compacted": "compacted_files", "rows moved": "moved_rows",
        "rows deleted": "deleted_rows", "files vacuumed": "vacuumed_files",
    })  # fmt: skip


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
