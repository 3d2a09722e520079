"""A long piece of work as it looks from inside its own process: a module's ``work(spec, report)``.

It reads one frozen dataclass, says how far it is, and leaves its results in files, the one that says "finished" last.
It refuses with a ``SkerryError``. What it or a library prints goes to a log beside its results.
"""

import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from skerry_shared.errors import SkerryError


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` steps of this stage; ``note`` is a figure worth showing beside it."""

    stage: str
    done: int
    total: int
    note: str = ""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Failure:
    """Why the work was not done: the name of a SkerryError's class, and its text."""

    kind: str
    text: str


def main(module: str, spec: Any, log: Path, channel: "Connection[Progress | Failure, None]") -> None:
    """The process's whole life: do the module's work, say on ``channel`` how far it is, or why it goes no further."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends its jobs itself
    _print_to(log)
    try:
        importlib.import_module(module).work(spec, channel.send)
    except SkerryError as error:
        channel.send(Failure(type(error).__name__, str(error)))
    except Exception as error:
        channel.send(Failure("SkerryError", f"{module} broke, see {log}: {type(error).__name__}: {error}"))
        raise


def _print_to(log: Path) -> None:
    """Standard output and error to this file from now on, a C library's too."""
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
