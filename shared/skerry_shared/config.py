"""From a TOML file or a JSON body to a frozen dataclass, and nothing undeclared gets through.

The dataclass is the schema: its fields are the keys, their types are checked, a default makes a key optional.
An error names the document, the key and, for a typing slip, the key that was probably meant.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class Gate:
...     max_drop: float = 1.0
>>> decode(Gate, {"max_dorp": 2}, "gate.toml")
Traceback (most recent call last):
skerry_shared.errors.ConfigError: gate.toml: unknown key 'max_dorp'; did you mean 'max_drop'?
"""

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from skerry_shared.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def load_toml(cls: type[T], path: Path) -> T:
    """Read ``path`` as a ``cls``. Raises ConfigError if it is missing, is not TOML or does not fit."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return parse_toml(cls, text, str(path))


def parse_toml(cls: type[T], text: str, where: str) -> T:
    """Read TOML as a ``cls``; ``where`` names the document in errors. Raises ConfigError."""
    try:
        return decode(cls, tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: {error}") from None


def decode(cls: type[T], document: Mapping[str, Any], where: str) -> T:
    """Make a ``cls`` (a dataclass) of ``document``; ``where`` names the document in errors. Raises ConfigError."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in document:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key '{key}'{_suggestion(key, list(fields))}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in document.items()}
    for name, field in fields.items():
        if name not in values and not _has_default(field):
            raise ConfigError(f"{where}: missing key '{name}' ({_type_name(hints[name])})")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _suggestion(key: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known keys: {', '.join(known)}"


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, _expect(Mapping, value, hint, where), where)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        return tuple(_value(arguments[0], item, where) for item in _expect(list, value, hint, where))
    if origin is dict:
        items = _expect(Mapping, value, hint, where).items()
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in items}
    if origin is typing.Literal:
        return _one_of(arguments, value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(value, where)
    if hint is Path:
        return Path(_expect(str, value, hint, where))
    return _expect(hint, value, hint, where)


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value!r}")
    return float(value)


def _expect(kind: Any, value: Any, hint: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise ConfigError(f"{where}: expected {_type_name(hint)}, got {value!r}")
    return value


def _one_of(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise ConfigError(f"{where}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def _type_name(hint: Any) -> str:
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", Path: "a path"}
    if dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict:
        return "a table"
    return names.get(hint, "a list" if typing.get_origin(hint) is tuple else str(hint))
