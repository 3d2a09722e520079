"""How the operator's commands speak to the cloud, and show what it says."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from skerry_cloud.api_client import CloudClient
from skerry_shared.errors import SkerryError, UsageError

Row = dict[str, Any]

console = Console()


def event_line(event: Row) -> str:
    """One event as one line of a timeline."""
    change = f"{event['before']} → {event['after']}" if event["before"] else event["after"]
    why = f"  ({event['reason']})" if event["reason"] else ""
    return f"{time_of(event['time'])}  {event['kind']:<8} {event['name']:<24} {change}{why}  by {event['actor']}"


def cloud_of(context: typer.Context) -> CloudClient:
    """The cloud that this call speaks to."""
    client: CloudClient = context.obj()
    return client


def follow(lines: Iterator[Row], quiet: bool) -> dict[str, Any]:
    """Show how far the work is, unless ``quiet``; its result. Raises SkerryError without one."""
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


def tell(document: Any, as_json: bool, line: str) -> None:
    """What was done, as a line or as JSON."""
    typer.echo(json.dumps(document) if as_json else line)


def show(document: Any, as_json: bool) -> None:
    """One thing, with all that is known of it."""
    if as_json:
        typer.echo(json.dumps(document))
    else:
        console.print_json(data=document)


def listed(rows: list[Row], as_json: bool, columns: dict[str, str | Callable[[Row], str]]) -> None:
    """Rows as a table or as JSON; ``columns`` gives a title the key of a row, or what makes a cell of it."""
    if as_json:
        return typer.echo(json.dumps(rows))
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        cells = (row[c] if isinstance(c, str) else c(row) for c in columns.values())
        table.add_row(*(escape(str(cell)) for cell in cells))
    console.print(table if rows else "[dim]none[/]")
    return None


def release_name(name: str) -> tuple[str, int]:
    """Workload and number of WORKLOAD/NUMBER. Raises UsageError."""
    workload, _, number = name.partition("/")
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"release: {name!r} is not WORKLOAD/NUMBER, as in fashion/1")
    return workload, int(number)


def minutes_of(row: Row) -> str:
    """How long a run took."""
    return f"{row['seconds'] / 60:.1f}"


def cost_of(row: Row) -> str:
    """What a run cost."""
    return f"{row['cost']:.2f}"


def when(key: str) -> Callable[[dict[str, Any]], str]:
    """A cell with the time that a row has under ``key``."""
    return lambda row: time_of(row[key]) if row[key] else "never"


def time_of(seconds: float) -> str:
    """Local time."""
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


def short(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {short(item)}" for key, item in value.items())
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
