"""The bytes of Envoy's access log, read as a message of our own that has what we need of it.

OpenTelemetry's list of attributes is a map here: on the wire both are the same (protobuf.dev,
"Maps"), and an attribute is found by one look-up instead of being made an object of three. What
is in a value stays bytes until somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_Field = descriptor_pb2.FieldDescriptorProto
_Type = descriptor_pb2.DescriptorProto
_PACKAGE: Final = "egret.access_log"


def _request_class() -> type[Message]:
    """Return what reads an `ExportLogsServiceRequest`; numbers are those of OTLP 1.x."""
    entry = _Type(name="AttributesEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=_Field.TYPE_BYTES, label=_Field.LABEL_OPTIONAL)
    record = _with_list("Record", "attributes", 6, of="Record.AttributesEntry")
    record.nested_type.append(entry)
    file = descriptor_pb2.FileDescriptorProto(
        name="egret/access_log.proto",
        package=_PACKAGE,
        syntax="proto3",
        message_type=[
            record,
            _with_list("Scope", "log_records", 2, of="Record"),
            _with_list("Resource", "scope_logs", 2, of="Scope"),
            _with_list("Request", "resource_logs", 1, of="Resource"),
        ],
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Request"))


def _with_list(name: str, field: str, number: int, *, of: str) -> _Type:
    message = _Type(name=name)
    message.field.add(
        name=field,
        number=number,
        type=_Field.TYPE_MESSAGE,
        type_name=f".{_PACKAGE}.{of}",
        label=_Field.LABEL_REPEATED,
    )
    return message


_REQUEST: Final[Any] = _request_class()

NOTHING: Final = b"\x0a\x01-"
"""How a value looks where Envoy has nothing to say."""

MAX_COUNT: Final = (1 << 53) - 1
"""Whole numbers up to here are exact in JSON and fit a `bigint`; more tokens is nonsense."""

_TEXT_TAG: Final = 0x0A
_MORE: Final = 0x80
_LENGTH_END: Final = 6
_MAX_DIGITS: Final = 16


def attributes_of(message: bytes) -> Iterator[Mapping[str, bytes]]:
    """Yield the attributes of each record; what is not there is empty.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    for resource in _REQUEST.FromString(message).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield record.attributes


def as_value(text: str) -> bytes:
    """Return *text* as the value of an attribute, to compare with: less than 128 bytes."""
    raw = text.encode()
    return bytes((_TEXT_TAG, len(raw))) + raw


def told(value: bytes) -> bytes:
    """Return the text of a value, empty where Envoy has nothing to say or it is no text."""
    size = len(value)
    if value == NOTHING or size < len(NOTHING) or value[0] != _TEXT_TAG:
        return b""
    if value[1] == size - 2 < _MORE:
        return value[2:]
    # The length before the text, in groups of seven bits (protobuf.dev, "Varints").
    length = 0
    for at, group in enumerate(value[1:_LENGTH_END], start=1):
        length += (group & 0x7F) << 7 * (at - 1)
        if group < _MORE:
            return value[at + 1 :] if length == size - at - 1 else b""
    return b""


def whole(value: bytes) -> int | None:
    """Return the whole number a value is, `MAX_COUNT` at most, None where it is none."""
    digits = value[2:]
    size = len(digits)
    if size <= _MAX_DIGITS and digits.isdigit() and value[0] == _TEXT_TAG and value[1] == size:
        return min(int(digits), MAX_COUNT)
    return None
