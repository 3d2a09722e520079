"""Dataclass ↔ protobuf: with the gRPC adapters the only module that knows the generated code.

A dataclass and its message have the same field names, so one conversion serves all of them. Unknown fields on the wire
are ignored (a newer peer may send them); bytes that do not parse raise InputError.
"""

import dataclasses
import typing
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from skerry_proto.v1 import release_pb2, telemetry_pb2
from skerry_shared import release, telemetry
from skerry_shared.errors import InputError

T = TypeVar("T")

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
    hints = typing.get_type_hints(cls)
    return cls(**{name: _get(hint, message, name) for name, hint in hints.items()})


def _set(message: Message, name: str, value: Any) -> None:
    if dataclasses.is_dataclass(value):
        getattr(message, name).CopyFrom(to_message(value))
    elif isinstance(value, tuple):
        getattr(message, name).extend(to_message(v) if dataclasses.is_dataclass(v) else v for v in value)
    elif value is not None:
        setattr(message, name, value)


def _get(hint: Any, message: Message, name: str) -> Any:
    value, arguments = getattr(message, name), typing.get_args(hint)
    if type(None) in arguments:
        return _plain(arguments[0], value) if message.HasField(name) else None
    if typing.get_origin(hint) is tuple:
        return tuple(_plain(arguments[0], item) for item in value)
    return _plain(hint, value)


def _plain(hint: Any, value: Any) -> Any:
    return from_message(hint, value) if hint in MESSAGES else value
