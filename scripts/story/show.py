"""What the audience sees: a timeline of checked facts, progress bars, a table at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from story.stage import BrokenError


class Show:
    """Prints the story as it goes, and keeps the time of each step."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()

    @contextmanager
    def step(self, letter: str, title: str) -> Iterator[None]:
        """A step of the story."""
        self.console.print(f"\n[bold]{letter}. {title}[/]")
        start = time.monotonic()
        yield
        self.seconds[letter] = time.monotonic() - start

    def check(self, holds: bool, fact: str) -> None:
        """State a fact that was looked up. Raises BrokenError if it does not hold."""
        mark = "[green]✓[/]" if holds else "[red]✗[/]"
        self.console.print(f"  [dim]{time.monotonic() - self._start:6.1f} s[/] {mark} {escape(fact)}", soft_wrap=True)
        if not holds:
            raise BrokenError(f"did not hold: {fact}")

    def say(self, line: str) -> None:
        """Something worth knowing that is no check."""
        self.console.print(f"  [dim]{time.monotonic() - self._start:6.1f} s · {escape(line)}[/]", soft_wrap=True)

    def follow(self, lines: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Show long work of the cloud as bars; its result."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:>10}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
        )
        tasks: dict[str, Any] = {}
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as bars:
            for line in lines:
                if "result" in line:
                    result: dict[str, Any] = line["result"]
                    return result
                if line["stage"] not in tasks:
                    tasks[line["stage"]] = bars.add_task(line["stage"], note="")
                bars.update(
                    tasks[line["stage"]], total=line["total"] or None, completed=line["done"], note=line["note"]
                )
        raise BrokenError("the cloud ended the work without a result")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A spinner while something is waited for."""
        columns = (SpinnerColumn(), TextColumn("  {task.description}"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as bars:
            bars.add_task(what)
            yield

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table."""
        table = Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
