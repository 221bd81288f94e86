"""Decodes Envoy's gRPC access log into records of finished requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from sidecar._generated.opentelemetry.proto.collector.logs.v1 import (
    logs_service_pb2 as service,
)
from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.limits import Reservation
from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    DecisionKind,
    ExchangeEnded,
    JudgedRequest,
    TokenCounts,
    UnmatchedEnd,
)
from sidecar.telemetry import sanitize

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


ACCEPTED: Final = service.ExportLogsServiceResponse().SerializeToString()
"""The answer that lets Envoy forget a message; without it Envoy sends it to another worker."""

MAX_STATUS: Final = 999
MAX_TEXT: Final = 200
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_COUNT: Final = re.compile(r"[0-9]{1,16}")

_ABORTED: Final = frozenset({b"DC", b"DR"})
"""Response flags: downstream connection termination, downstream remote reset."""

_EVENT_STREAMS: Final = (b"text/event-stream", b"application/vnd.amazon.eventstream")

_POST: Final = as_value("POST")
_COMPLETE: Final = as_value("1")
"""Of `envoy.data.ai.v3.TokenUsage.ExtractionStatus`: the answer was read to its end."""


_NUMBERS: Final = 4
"""Of what was reserved; limits come after them."""
_STREAM: Final = re.compile(r"[0-9a-f-]{36}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Values = Mapping[str, bytes]
"""The attributes of a record by name."""


@dataclass(frozen=True, slots=True)
class AccessLogBatch:
    """The exchanges of one message, and how many records of it could not be read."""

    ended: tuple[ExchangeEnded, ...]
    unreadable: int
    unnamed: tuple[UnmatchedEnd, ...] = ()


class _UnreadableRecordError(ValueError):
    """A record lacks what every record of ours has."""


def decode_access_log(message: bytes) -> AccessLogBatch:
    """Turn one `ExportLogsServiceRequest` into exchanges that ended.

    Raises:
        UnreadableMessageError: the bytes are no such message.
    """
    ended: list[ExchangeEnded] = []
    unnamed: list[UnmatchedEnd] = []
    unreadable = 0
    try:
        for values in attributes_of(message):
            if values["egret"] == NOTHING:
                unnamed.extend(_unnamed(values))
                continue
            try:
                ended.append(_ended(values))
            except _UnreadableRecordError:
                unreadable += 1
    except DecodeError as error:
        raise UnreadableMessageError from error
    return AccessLogBatch(tuple(ended), unreadable, tuple(unnamed))


def _unnamed(values: _Values) -> Iterator[UnmatchedEnd]:
    """Yield the end of a stream, if Egret was asked about it and nobody else heard of it.

    An Envoy that lets requests pass while Egret does not answer has sent it on: then what was
    taken for it was used, and nobody knows how much of it.
    """
    stream = _word(values["stream"])
    if _STREAM.fullmatch(stream) and not told(values["upstream"]):
        is_aborted = _flags(values) & _ABORTED
        yield UnmatchedEnd(
            stream=stream,
            status=min(_count(values["status"]), MAX_STATUS),
            end=AnswerEnd.CLIENT_ABORTED if is_aborted else AnswerEnd.FAILED,
            latency_seconds=_count(values["duration_ms"]) / 1000,
        )


def _ended(values: _Values) -> ExchangeEnded:
    metadata = _metadata(values["egret"])
    end = _end(values, metadata)
    is_blocked = end is AnswerEnd.BLOCKED
    return ExchangeEnded(
        request=_request(metadata),
        status=min(_count(values["status"]), MAX_STATUS),
        end=end,
        tokens=_tokens(values),
        response_model=sanitize.response_model(_text(_word(values["model"]))),
        provider_request_id=_text(_word(values["provider_request_id"])),
        received_bytes=_count(values["received_bytes"]),
        sent_bytes=_count(values["sent_bytes"]),
        answer_status=_whole(metadata.get("answer_status")) if is_blocked else None,
        answer_bytes=_count(values["answer_bytes"]) if is_blocked else 0,
        is_event_stream=told(values["content_type"]).lower().startswith(_EVENT_STREAMS),
        # The finer one only where the answer ended as it should.
        latency_seconds=_seconds(values["duration_us"]) or _count(values["duration_ms"]) / 1000,
        first_token_seconds=_seconds(values["first_byte_us"]),
        output_seconds=_seconds(values["output_us"]),
        trace_id=_trace_id(metadata.get("trace_id")),
    )


def _trace_id(value: object) -> int | None:
    """Envoy's own, in each record, is not asked: it is there for what is not sampled as well."""
    is_one = isinstance(value, str) and _TRACE_ID.fullmatch(value) is not None
    return int(cast("str", value), 16) if is_one else None


def _metadata(egret: bytes) -> Mapping[str, object]:
    try:
        value: object = orjson.loads(told(egret))
    except orjson.JSONDecodeError:
        raise _UnreadableRecordError from None
    if not isinstance(value, dict):
        raise _UnreadableRecordError
    return cast("Mapping[str, object]", value)


def _request(metadata: Mapping[str, object]) -> JudgedRequest:
    return JudgedRequest(
        request_id=_needed(metadata, "request_id"),
        occurred_at=_moment(metadata),
        key_id=_needed(metadata, "key_id"),
        team_id=_needed(metadata, "team_id"),
        organization_id=_needed(metadata, "organization_id"),
        decision=_DECISIONS.get(metadata.get("verdict"), DecisionKind.DENY),
        operation=_text(metadata.get("operation")),
        provider=_text(metadata.get("provider")),
        model=_text(metadata.get("model")),
        is_streamed=metadata.get("streamed") == "true",
        text_bytes=_whole(metadata.get("text_bytes")),
        guardrails=_guardrails(metadata.get("guardrails")),
        reserved=_reserved(metadata.get("reserved")),
    )


_DECISIONS: Final[Mapping[object, DecisionKind]] = {
    "allowed": DecisionKind.ALLOW,
    "flagged": DecisionKind.ALLOW,
    "redacted": DecisionKind.REDACT,
}


def _needed(metadata: Mapping[str, object], name: str) -> str:
    text = _text(metadata.get(name))
    if text is None:
        raise _UnreadableRecordError
    return text


def _moment(metadata: Mapping[str, object]) -> datetime:
    text = metadata.get("started_us")
    if not isinstance(text, str) or not _COUNT.fullmatch(text):
        raise _UnreadableRecordError
    return _EPOCH + timedelta(microseconds=int(text))


def _guardrails(text: object) -> dict[str, str] | None:
    """Read `name=verdict name=verdict`."""
    if not isinstance(text, str):
        return None
    pairs = (pair.partition("=") for pair in text.split())
    return {name: verdict for name, _, verdict in pairs} or None


def _reserved(text: object) -> Reservation | None:
    """Read four numbers and the ids of limits, as `mutations.usage` writes them."""
    if not isinstance(text, str):
        return None
    words = text.split(" ")
    if len(words) < _NUMBERS:
        return None
    tokens_in, tokens_out, cost, taken_us = map(_whole, words[:_NUMBERS])
    return Reservation(tokens_in, tokens_out, cost, taken_us, tuple(words[_NUMBERS:]))


def _end(values: _Values, metadata: Mapping[str, object]) -> AnswerEnd:
    if metadata.get("verdict") in {"refused", "failed"}:
        # Egret names the provider's status only where it has refused an answer.
        return AnswerEnd.BLOCKED if "answer_status" in metadata else AnswerEnd.REFUSED
    if values["flags"] == NOTHING:
        return AnswerEnd.COMPLETED
    flags = _flags(values)
    if flags & _ABORTED:
        return AnswerEnd.CLIENT_ABORTED
    return AnswerEnd.FAILED if flags - {b""} else AnswerEnd.COMPLETED


def _flags(values: _Values) -> set[bytes]:
    return set(told(values["flags"]).split(b","))


def _tokens(values: _Values) -> TokenCounts | None:
    if values["method"] != _POST:
        return NO_TOKENS  # only what is posted makes a model work
    if values["usage_status"] != _COMPLETE:
        return None
    return TokenCounts(
        input=_count(values["input_tokens"]),
        output=_count(values["output_tokens"]),
        cached_input=_count(values["cached_input_tokens"]),
        cache_write_input=_count(values["cache_write_input_tokens"]),
        reasoning=_count(values["reasoning_tokens"]),
    )


def _count(value: bytes) -> int:
    return whole(value) or 0


def _seconds(value: bytes) -> float | None:
    microseconds = whole(value)
    return None if microseconds is None else microseconds / 1_000_000


def _whole(value: object) -> int:
    if not isinstance(value, str) or not _COUNT.fullmatch(value):
        return 0
    return min(int(value), MAX_COUNT)


def _word(value: bytes) -> str:
    """Return a text that others wrote; what is no UTF-8 spoils no other record of its message."""
    return told(value).decode(errors="replace")


def _text(value: object) -> str | None:
    """Return text fit for a database: no control characters, which PostgreSQL may refuse."""
    if not isinstance(value, str) or not value:
        return None
    if value.isprintable():
        return value[:MAX_TEXT]
    return _CONTROL.sub("", value)[:MAX_TEXT] or None
