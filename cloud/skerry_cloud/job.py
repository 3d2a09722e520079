"""A long piece of work as a process of its own: ``python -m <module> SPEC.json``.

The process reads one frozen dataclass, says how far it is as one JSON object a line on standard output, and leaves its
results in files, the one that says "finished" last. If it fails it ends with a status other than 0, and the last line
on standard error says why; before that line stands whatever libraries print.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO, TypeVar

from skerry_shared.config import decode
from skerry_shared.errors import ConfigError, SkerryError

S = TypeVar("S")


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` steps of this stage; ``note`` is a figure worth showing beside it."""

    stage: str
    done: int
    total: int
    note: str = ""


Report = Callable[[Progress], None]


def main(spec: type[S], work: Callable[[S, Report], None]) -> int:
    """Do the work that the file named by the first argument specifies. Returns the process's exit status."""
    channel = _channel()

    def say(progress: Progress) -> None:
        channel.write(json.dumps(dataclasses.asdict(progress)) + "\n")
        channel.flush()

    try:
        work(read_spec(spec, Path(sys.argv[1])), say)
    except SkerryError as error:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    return 0


def _channel() -> TextIO:
    """Standard output for progress alone: what anything else prints there, a C library too, goes to standard error."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def leave(status: int) -> NoReturn:
    """End the process at once: with torch loaded, Python's own farewell takes a second, and all files are closed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def read_spec(spec: type[S], path: Path) -> S:
    """The specification in this JSON file. Raises ConfigError if it is none."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return decode(spec, document, str(path))
