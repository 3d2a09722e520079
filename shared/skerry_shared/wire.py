"""Dataclass ↔ protobuf: with the gRPC adapters the only module that knows the generated code.

A dataclass and its message have the same field names, so one conversion serves all of them. Unknown fields on the wire
are ignored (a newer peer may send them); bytes that do not parse raise InputError.
"""

import dataclasses
import functools
import operator
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from skerry_proto.v1 import release_pb2, telemetry_pb2
from skerry_shared import release, telemetry
from skerry_shared.errors import InputError

T = TypeVar("T")
Getter = Callable[[Message], Any]

MESSAGES: dict[type, type[Message]] = {
    release.TensorSpec: release_pb2.TensorSpec,
    release.Target: release_pb2.Target,
    release.Measured: release_pb2.Measured,
    release.Lineage: release_pb2.Lineage,
    release.Channel: release_pb2.Channel,
    release.Field: release_pb2.Field,
    release.Manifest: release_pb2.Manifest,
    release.Assignment: release_pb2.Assignment,
    release.Signed: release_pb2.Signed,
    telemetry.Session: telemetry_pb2.Session,
    telemetry.SignedSession: telemetry_pb2.SignedSession,
    telemetry.Header: telemetry_pb2.Header,
    telemetry.Sealed: telemetry_pb2.Sealed,
    telemetry.Up: telemetry_pb2.Up,
    telemetry.Ack: telemetry_pb2.Ack,
    telemetry.Down: telemetry_pb2.Down,
}


def encode(value: Any) -> bytes:
    """Serialise one of the dataclasses in ``MESSAGES``."""
    return to_message(value).SerializeToString(deterministic=True)


def decode(cls: type[T], data: bytes) -> T:
    """Undo ``encode``. Raises InputError if ``data`` is not a message of this kind."""
    message = MESSAGES[cls]()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InputError(f"not a {cls.__name__}: {error}") from None
    return from_message(cls, message)


def to_json(value: Any) -> str:
    """Protobuf JSON, indented, fields in the order of their numbers: the same value gives the same text."""
    return json_format.MessageToJson(to_message(value), preserving_proto_field_name=True, indent=1) + "\n"


def from_json(cls: type[T], text: str | bytes) -> T:
    """Undo ``to_json``. Raises InputError on text that is no such document, unknown fields included."""
    try:
        return from_message(cls, json_format.Parse(text, MESSAGES[cls]()))
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"not a {cls.__name__}: {error}") from None


def to_message(value: Any) -> Message:
    """The protobuf message of one of the dataclasses in ``MESSAGES``."""
    message = MESSAGES[type(value)]()
    for field in dataclasses.fields(value):
        _set(message, field.name, getattr(value, field.name))
    return message


def from_message(cls: type[T], message: Message) -> T:
    """The dataclass of a protobuf message. An absent optional field is None."""
    return cls(*(get(message) for get in _getters(cls)))  # type: ignore[arg-type]


def _set(message: Message, name: str, value: Any) -> None:
    if dataclasses.is_dataclass(value):
        getattr(message, name).CopyFrom(to_message(value))
    elif isinstance(value, tuple):
        getattr(message, name).extend(to_message(v) if dataclasses.is_dataclass(v) else v for v in value)
    elif value is not None:
        setattr(message, name, value)


@functools.cache
def _getters(cls: type) -> tuple[Getter, ...]:
    """Of each field, how to take it from a message."""
    return tuple(_getter(name, hint) for name, hint in typing.get_type_hints(cls).items())


def _getter(name: str, hint: Any) -> Getter:
    get, arguments = operator.attrgetter(name), typing.get_args(hint)
    if type(None) in arguments:
        plain = _plain(arguments[0])
        return lambda message: plain(get(message)) if message.HasField(name) else None
    if typing.get_origin(hint) is tuple:
        item = _plain(arguments[0])
        return lambda message: tuple(map(item, get(message)))
    one = _plain(hint)
    return lambda message: one(get(message))


def _plain(hint: Any) -> Callable[[Any], Any]:
    return functools.partial(from_message, hint) if hint in MESSAGES else lambda value: value
