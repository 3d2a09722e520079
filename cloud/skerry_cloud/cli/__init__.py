"""`skerry`: the operator's command line. Everything that it does is a call of the API."""

import os
import sys

from skerry_cloud.cli import fleet, learn, look, watch
from skerry_cloud.cli.app import app
from skerry_shared.errors import SkerryError, UsageError

__all__ = ["fleet", "learn", "look", "main", "watch"]


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
