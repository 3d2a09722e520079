"""Entry points by name: ours and a third party's take the same road; nothing is imported before it is asked for."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from skerry_shared.errors import ConfigError, NotFoundError


def names(group: str) -> tuple[str, ...]:
    """What is installed under ``group``. Importing nothing."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


@cache  # what is installed is told by some hundred files
def load(group: str, name: str) -> Any:
    """The object behind ``name``. Raises NotFoundError (lists the known) or ConfigError (names what is missing)."""
    found = [point for point in entry_points(group=group) if point.name == name]
    if not found:
        raise NotFoundError(f"{group}: no {name!r}; known: {', '.join(names(group)) or 'none'}")
    if len({point.value for point in found}) > 1:
        raise ConfigError(f"{group}: {name!r} is claimed by {' and '.join(sorted(p.value for p in found))}")
    return _import(found[0])


def _import(point: EntryPoint) -> Any:
    try:
        return point.load()
    except ImportError as error:
        raise ConfigError(f"{point.group}: {point.name!r} needs {error.name or error}; install its package") from None
