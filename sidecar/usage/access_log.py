"""Decodes Envoy's gRPC access log into requests that have ended.

Each record holds texts by name, as `envoy/egret.yaml.j2` lists them. One of them, `egret`, is the
dynamic metadata that Egret gave Envoy with its verdict, as JSON: see `domain.metadata`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from sidecar._generated.opentelemetry.proto.collector.logs.v1 import (
    logs_service_pb2 as service,
)
from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.limits import Reservation
from sidecar.domain.metadata import EPOCH, RESERVED_NUMBERS, MetadataKey
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

ACCEPTED: Final = service.ExportLogsServiceResponse().SerializeToString()
"""The answer that lets Envoy forget a message; without it Envoy sends it to another worker."""

NOTHING: Final = b"\x0a\x01-"
"""The value of an attribute for which Envoy has no text."""

MAX_COUNT: Final = (1 << 53) - 1
"""Whole numbers up to here are exact in JSON and fit a `bigint`; no request has more tokens."""

MAX_STATUS: Final = 999
MAX_TEXT: Final = 200

_TEXT_TAG: Final = 0x0A
_MORE: Final = 0x80
_LENGTH_END: Final = 6
_MAX_DIGITS: Final = 16
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_COUNT: Final = re.compile(r"[0-9]{1,16}")
_STREAM: Final = re.compile(r"[0-9a-f-]{36}")

_ABORTED: Final = frozenset({b"DC", b"DR"})
"""Response flags: downstream connection termination, downstream remote reset."""

_EVENT_STREAMS: Final = (b"text/event-stream", b"application/vnd.amazon.eventstream")

_DECISIONS: Final[Mapping[object, DecisionKind]] = {
    "allowed": DecisionKind.ALLOW,
    "flagged": DecisionKind.ALLOW,
    "redacted": DecisionKind.REDACT,
}

_REFUSED: Final = ("refused", "failed")
_IDS: Final = (
    MetadataKey.REQUEST_ID,
    MetadataKey.KEY_ID,
    MetadataKey.TEAM_ID,
    MetadataKey.ORGANIZATION_ID,
)
_OWNER: Final = frozenset({*_IDS[1:], MetadataKey.STARTED_US})

_Values = Mapping[str, bytes]
"""The attributes of a record by name."""


@dataclass(frozen=True, slots=True)
class AccessLogBatch:
    """The requests of one message: ended, without a verdict of ours, or not readable.

    `unreadable` names the field of each such record that is missing or wrong.
    """

    ended: tuple[ExchangeEnded, ...]
    unreadable: tuple[str, ...]
    unmatched: tuple[UnmatchedEnd, ...] = ()


class _UnreadableRecordError(ValueError):
    """A record lacks the named field, which every record of ours has."""


def decode_access_log(message: bytes) -> AccessLogBatch:
    """Decode one `ExportLogsServiceRequest`; refused requests without an owner are left out.

    Raises:
        UnreadableMessageError: the bytes are no such message.
    """
    ended: list[ExchangeEnded] = []
    unmatched: list[UnmatchedEnd] = []
    unreadable: list[str] = []
    try:
        for values in attributes_of(message):
            if values["egret"] == NOTHING:
                # A stream that Egret received, but whose verdict Envoy did not. If an upstream
                # host is named, Envoy let the request pass while Egret did not answer: then the
                # units taken for it were used, and their number is not known.
                stream = text_of(values["stream"]).decode(errors="replace")
                is_aborted = not _ABORTED.isdisjoint(text_of(values["flags"]).split(b","))
                if _STREAM.fullmatch(stream) and not text_of(values["upstream"]):
                    unmatched.append(
                        UnmatchedEnd(
                            stream=stream,
                            status=min(count_of(values["status"]) or 0, MAX_STATUS),
                            end=AnswerEnd.CLIENT_ABORTED if is_aborted else AnswerEnd.FAILED,
                            latency_seconds=(count_of(values["duration_ms"]) or 0) / 1000,
                        )
                    )
                continue
            try:
                metadata = orjson.loads(text_of(values["egret"]))
            except orjson.JSONDecodeError:
                metadata = None
            if not isinstance(metadata, dict):
                unreadable.append("egret")
                continue
            try:
                ended.append(_ended(values, metadata))
            except _UnreadableRecordError as error:
                # Refused before its owner was known, as while the database is away.
                is_refused = metadata.get(MetadataKey.VERDICT) in _REFUSED
                is_answered = MetadataKey.ANSWER_STATUS in metadata
                if is_answered or not is_refused or not _OWNER.isdisjoint(metadata):
                    unreadable.append(str(error))
    except DecodeError as error:
        raise UnreadableMessageError from error
    return AccessLogBatch(tuple(ended), tuple(unreadable), tuple(unmatched))


def _ended(values: _Values, metadata: Mapping[str, object]) -> ExchangeEnded:
    verdict, flags = metadata.get(MetadataKey.VERDICT), values["flags"]
    if not isinstance(verdict, str):
        raise _UnreadableRecordError(MetadataKey.VERDICT)
    end = AnswerEnd.COMPLETED
    if verdict in _REFUSED:
        # Egret names the provider's status only if it has refused an answer.
        is_answered = MetadataKey.ANSWER_STATUS in metadata
        end = AnswerEnd.BLOCKED if is_answered else AnswerEnd.REFUSED
    elif flags != NOTHING and (reasons := text_of(flags).strip(b",")):
        is_aborted = not _ABORTED.isdisjoint(reasons.split(b","))
        end = AnswerEnd.CLIENT_ABORTED if is_aborted else AnswerEnd.FAILED
    is_blocked = end is AnswerEnd.BLOCKED
    tokens: TokenCounts | None = None
    if values["method"] != _POST:
        tokens = NO_TOKENS  # only a POST makes a model work
    elif values["usage_status"] == _COMPLETE:
        tokens = TokenCounts(
            input=count_of(values["input_tokens"]) or 0,
            output=count_of(values["output_tokens"]) or 0,
            cached_input=count_of(values["cached_input_tokens"]) or 0,
            cache_write_input=count_of(values["cache_write_input_tokens"]) or 0,
            reasoning=count_of(values["reasoning_tokens"]) or 0,
        )
    request = _judged_request(metadata, verdict)
    named = clean_text(text_of(values["provider_request_id"]).decode(errors="replace"))
    if (is_blocked or end is AnswerEnd.REFUSED) and named == request.request_id:
        named = None  # the answer is Egret's, and so is its id
    trace_id = metadata.get(MetadataKey.TRACE_ID)
    first_byte, output = count_of(values["first_byte_us"]), count_of(values["output_us"])
    return ExchangeEnded(
        request=request,
        status=min(count_of(values["status"]) or 0, MAX_STATUS),
        end=end,
        tokens=tokens,
        # A text that is not UTF-8 must not make other records of its message unreadable.
        response_model=sanitize.response_model(
            clean_text(text_of(values["model"]).decode(errors="replace"))
        ),
        provider_request_id=named,
        received_bytes=count_of(values["received_bytes"]) or 0,
        sent_bytes=count_of(values["sent_bytes"]) or 0,
        answer_status=_number(metadata.get(MetadataKey.ANSWER_STATUS)) if is_blocked else None,
        answer_bytes=(count_of(values["answer_bytes"]) or 0) if is_blocked else 0,
        is_event_stream=text_of(values["content_type"]).lower().startswith(_EVENT_STREAMS),
        # Microseconds are there only if the answer ended as it should.
        latency_seconds=(count_of(values["duration_us"]) or 0) / 1_000_000
        or (count_of(values["duration_ms"]) or 0) / 1000,
        first_token_seconds=None if first_byte is None else first_byte / 1_000_000,
        output_seconds=None if output is None else output / 1_000_000,
        # Envoy's own trace id, in each record, is there for unsampled requests as well.
        trace_id=int(trace_id, 16)
        if isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id)
        else None,
    )


def _judged_request(metadata: Mapping[str, object], verdict: str) -> JudgedRequest:
    get = metadata.get
    started_us = get(MetadataKey.STARTED_US)
    if not isinstance(started_us, str) or not _COUNT.fullmatch(started_us):
        raise _UnreadableRecordError(MetadataKey.STARTED_US)
    request_id, key_id, team_id, organization_id = map(clean_text, map(get, _IDS))
    if request_id is None or key_id is None or team_id is None or organization_id is None:
        raise _UnreadableRecordError(next(name for name in _IDS if clean_text(get(name)) is None))
    verdicts: dict[str, str] | None = None
    if isinstance(guardrails := get(MetadataKey.GUARDRAILS), str) and guardrails:
        pairs = [pair.partition("=") for pair in guardrails.split()]
        verdicts = {name: verdict for name, _, verdict in pairs} or None
    reserved: Reservation | None = None
    if isinstance(text := get(MetadataKey.RESERVED), str):
        words = text.split(" ")  # as `reserved_text` writes them
        if len(words) >= RESERVED_NUMBERS:
            tokens_in, tokens_out, cost, taken_us = map(_number, words[:RESERVED_NUMBERS])
            by_model = tuple(words[RESERVED_NUMBERS:])
            reserved = Reservation(tokens_in, tokens_out, cost, taken_us, by_model)
    return JudgedRequest(
        request_id=request_id,
        occurred_at=EPOCH + timedelta(microseconds=int(started_us)),
        key_id=key_id,
        team_id=team_id,
        organization_id=organization_id,
        decision=_DECISIONS.get(verdict, DecisionKind.DENY),
        operation=clean_text(get(MetadataKey.OPERATION)),
        provider=clean_text(get(MetadataKey.PROVIDER)),
        model=clean_text(get(MetadataKey.MODEL)),
        is_streamed=get(MetadataKey.STREAMED) == "true",
        text_bytes=_number(get(MetadataKey.TEXT_BYTES)),
        guardrails=verdicts,
        reserved=reserved,
    )


def _number(value: object) -> int:
    """Return the whole number that *value* spells, 0 if it spells none."""
    if not isinstance(value, str) or not _COUNT.fullmatch(value):
        return 0
    return min(int(value), MAX_COUNT)


def clean_text(value: object) -> str | None:
    """Return text without control characters, which PostgreSQL may refuse; None if it is empty."""
    if not isinstance(value, str) or not value:
        return None
    if value.isprintable():
        return value[:MAX_TEXT]
    return _CONTROL.sub("", value)[:MAX_TEXT] or None


# The wire format. A class of our own reads only the attributes of a record, and leaves their
# values as bytes: OTLP's own classes build four messages for each attribute.

_Field = descriptor_pb2.FieldDescriptorProto
_Type = descriptor_pb2.DescriptorProto
_PACKAGE: Final = "egret.access_log"


def _request_class() -> type[Message]:
    """Return the class that reads an `ExportLogsServiceRequest`; numbers are those of OTLP 1.x."""
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


def attributes_of(message: bytes) -> Iterator[Mapping[str, bytes]]:
    """Yield the attributes of each record; a missing one is empty.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    for resource in _REQUEST.FromString(message).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield record.attributes


def text_of(value: bytes) -> bytes:
    """Return the text of an attribute, empty if Envoy has none or the value is no text."""
    size = len(value)
    if value == NOTHING or size < len(NOTHING) or value[0] != _TEXT_TAG:
        return b""
    # The length before the text, in groups of seven bits (protobuf.dev, "Varints").
    length, at = value[1], 2
    if length >= _MORE:
        length &= 0x7F
        for group in value[2:_LENGTH_END]:
            length += (group & 0x7F) << 7 * (at - 1)
            at += 1
            if group < _MORE:
                break
    return value[at:] if length == size - at else b""


def count_of(value: bytes) -> int | None:
    """Return the whole number of an attribute, `MAX_COUNT` at most; None for another value."""
    count = _SMALL_COUNTS.get(value)
    if count is not None:
        return count
    digits = value[2:]
    if digits.isdigit() and value[0] == _TEXT_TAG and value[1] == len(digits) <= _MAX_DIGITS:
        return min(int(digits), MAX_COUNT)
    return None


def attribute_value(text: str) -> bytes:
    """Return *text*, of less than 128 bytes, as the value of an attribute, to compare with."""
    raw = text.encode()
    return bytes((_TEXT_TAG, len(raw))) + raw


_SMALL_COUNTS: Final = {attribute_value(str(count)): count for count in range(1000)}
"""Most numbers of a record: its status, and counts of tokens."""

_POST: Final = attribute_value("POST")
_COMPLETE: Final = attribute_value("1")
"""Of `envoy.data.ai.v3.TokenUsage.ExtractionStatus`: the answer was read to its end."""
