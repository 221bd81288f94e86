"""Decodes Envoy's gRPC access log into requests that have ended.

The body of each record is a `domain.usage.LogEntry`. Its `egret` is the dynamic metadata that
Egret gave Envoy with its verdict, as JSON: see `domain.metadata`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from sidecar._generated.opentelemetry.proto.collector.logs.v1 import (
    logs_service_pb2 as service,
)
from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.limits import Reservation
from sidecar.domain.metadata import EPOCH, RESERVED_NUMBERS, MetadataKey
from sidecar.domain.usage import (
    MAX_COUNT,
    NO_TOKENS,
    SERVICE_TIERS,
    AnswerEnd,
    DecisionKind,
    ExchangeEnded,
    JudgedRequest,
    LogEntry,
    TokenCounts,
    UnmatchedEnd,
)
from sidecar.telemetry import sanitize
from sidecar.telemetry.sanitize import MAX_TEXT, clean_text

ACCEPTED: Final = service.ExportLogsServiceResponse().SerializeToString()
"""The answer that lets Envoy forget a message; without it Envoy sends it to another worker."""

MAX_STATUS: Final = 999
NOTHING: Final = ("-", "", "-\n")
"""Envoy's text for a missing value, also as the last line of a log that a gateway ends with a line
feed, and the value of an attribute that is not there."""

_FORM: Final = LogEntry().form
_LINE_FEEDS: Final = len(LogEntry._fields) - 1
_TOKENS: Final = slice(
    LogEntry._fields.index("input_tokens"), LogEntry._fields.index("reasoning_tokens") + 1
)
"""In the order of `TokenCounts`."""

_COMPLETE: Final = "1"
_PARTIAL: Final = "2"
"""Of `envoy.data.ai.v3.TokenUsage.ExtractionStatus`: the answer was read to its end, or had not
come to it."""

_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_COUNT: Final = re.compile(r"[0-9]{1,16}")
_STREAM: Final = re.compile(r"[0-9a-f-]{36}")
_MAX_DIGITS: Final = 16
SMALL_COUNTS: Final = 4096
"""Most numbers of an entry are smaller: status, tokens, bytes of a short request."""

_ABORTED: Final = frozenset({"DC", "DR"})
"""Response flags: downstream connection termination, downstream remote reset."""

_UNSENT: Final = frozenset({"DF", "NC", "NR", "UF", "UH", "UO", "URX"})
"""Response flags: no address, cluster, route or connection, no try left. No provider has worked on
the request. The last one alone is of an answer such as 503, which the client received."""

_EVENT_STREAMS: Final = ("text/event-stream", "application/vnd.amazon.eventstream")

_DECISIONS: Final[dict[object, DecisionKind]] = {
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
_OWNER: Final = (*_IDS[1:], MetadataKey.STARTED_US)


class _Metadata(msgspec.Struct, gc=False):
    """Metadata of a verdict that usage needs, by `MetadataKey`; a value may be of any type."""

    request_id: Any = msgspec.UNSET
    verdict: Any = msgspec.UNSET
    answer_status: Any = msgspec.UNSET
    model: Any = ""
    trace_id: Any = msgspec.UNSET
    key_id: Any = msgspec.UNSET
    started_us: Any = msgspec.UNSET
    team_id: Any = msgspec.UNSET
    organization_id: Any = msgspec.UNSET
    operation: Any = ""
    provider: Any = ""
    streamed: Any = msgspec.UNSET
    text_bytes: Any = msgspec.UNSET
    guardrails: Any = msgspec.UNSET
    reserved: Any = msgspec.UNSET
    service_tier: Any = None
    usage_source: Any = msgspec.UNSET


_METADATA: Final = msgspec.json.Decoder(_Metadata)


@dataclass(frozen=True, slots=True)
class AccessLogBatch:
    """The requests of one message: ended, without a verdict of ours, or not readable.

    `unreadable` names the field of each such record that is missing or wrong. `ignored` is the
    number of requests that the worker which judged them accounts for itself.
    """

    ended: tuple[ExchangeEnded, ...]
    unreadable: tuple[str, ...]
    unmatched: tuple[UnmatchedEnd, ...] = ()
    ignored: int = 0


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
    ignored = 0
    try:
        for values in values_of(message):
            if len(values) <= _LINE_FEEDS or values[0] != _FORM:
                unreadable.append("form")
                continue
            entry = LogEntry._make(values)
            if entry.egret == "-":
                # A stream that Egret received, but whose verdict Envoy did not. If an upstream
                # host is named, Envoy let the request pass while Egret did not answer: then the
                # units taken for it were used, and their number is not known.
                if _STREAM.fullmatch(entry.stream) and entry.upstream in NOTHING:
                    is_aborted = not _ABORTED.isdisjoint(entry.flags.split(","))
                    unmatched.append(
                        UnmatchedEnd(
                            stream=entry.stream,
                            status=min(count_of(entry.status), MAX_STATUS),
                            end=AnswerEnd.CLIENT_ABORTED if is_aborted else AnswerEnd.FAILED,
                            latency_seconds=count_of(entry.duration_ms) / 1000,
                        )
                    )
                continue
            try:
                metadata = _METADATA.decode(entry.egret)
            except msgspec.DecodeError:
                unreadable.append("egret")
                continue
            if metadata.usage_source is not msgspec.UNSET:
                ignored += 1
                continue
            try:
                ended.append(_ended(entry, metadata))
            except _UnreadableRecordError as error:
                # Refused before its owner was known, as while the database is away.
                is_refused = metadata.verdict in _REFUSED
                is_answered = metadata.answer_status is not msgspec.UNSET
                has_owner = any(getattr(metadata, name) is not msgspec.UNSET for name in _OWNER)
                if is_answered or not is_refused or has_owner:
                    unreadable.append(str(error))
    except DecodeError as error:
        raise UnreadableMessageError from error
    return AccessLogBatch(tuple(ended), tuple(unreadable), tuple(unmatched), ignored)


def _ended(entry: LogEntry, metadata: _Metadata) -> ExchangeEnded:
    verdict, flags = metadata.verdict, entry.flags
    if not isinstance(verdict, str):
        raise _UnreadableRecordError(MetadataKey.VERDICT)
    end, is_sent = AnswerEnd.COMPLETED, entry.method == "POST"  # only a POST makes a model work
    if verdict in _REFUSED:
        # Egret names the provider's status only if it has refused an answer.
        is_answered = metadata.answer_status is not msgspec.UNSET
        end = AnswerEnd.BLOCKED if is_answered else AnswerEnd.REFUSED
    elif flags not in NOTHING and (reasons := flags.strip(",")):
        names = reasons.split(",")
        end = AnswerEnd.FAILED if _ABORTED.isdisjoint(names) else AnswerEnd.CLIENT_ABORTED
        is_sent = is_sent and not _UNSENT.issuperset(names)
    is_blocked = end is AnswerEnd.BLOCKED
    tokens, stated = None, NO_TOKENS
    if not is_sent:
        tokens = NO_TOKENS
    elif entry.usage_status == _COMPLETE:
        tokens = TokenCounts(*map(count_of, entry[_TOKENS]))
    elif entry.usage_status == _PARTIAL:
        stated = TokenCounts(*map(count_of, entry[_TOKENS]))
    request = _judged_request(metadata, verdict)
    named = entry.provider_request_id
    provider_request_id = None if named in NOTHING else clean_text(named)
    if (is_blocked or end is AnswerEnd.REFUSED) and provider_request_id == request.request_id:
        provider_request_id = None  # the answer is Egret's, and so is its id
    trace_id = metadata.trace_id
    first_byte, output = entry.first_byte_us, entry.output_us
    return ExchangeEnded(
        request=request,
        status=min(count_of(entry.status), MAX_STATUS),
        end=end,
        tokens=tokens,
        stated=stated,
        response_model=None
        if entry.model in NOTHING
        else sanitize.response_model(clean_text(entry.model)),
        provider_request_id=provider_request_id,
        received_bytes=count_of(entry.received_bytes),
        sent_bytes=count_of(entry.sent_bytes),
        answer_status=count_of(str(metadata.answer_status)) if is_blocked else None,
        answer_bytes=count_of(entry.answer_bytes) if is_blocked else 0,
        is_event_stream=entry.content_type.lower().startswith(_EVENT_STREAMS),
        # Microseconds are there only if the answer ended as it should.
        latency_seconds=count_of(entry.duration_us) / 1_000_000
        or count_of(entry.duration_ms) / 1000,
        first_token_seconds=None if first_byte in NOTHING else count_of(first_byte) / 1_000_000,
        output_seconds=None if output in NOTHING else count_of(output) / 1_000_000,
        # Envoy's own trace id, in each record, is there for unsampled requests as well.
        trace_id=int(trace_id, 16)
        if isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id)
        else None,
    )


def _judged_request(metadata: _Metadata, verdict: str) -> JudgedRequest:
    started_us = metadata.started_us
    if not isinstance(started_us, str) or not _COUNT.fullmatch(started_us):
        raise _UnreadableRecordError(MetadataKey.STARTED_US)
    texts: tuple[str, ...] = (
        metadata.request_id, metadata.key_id, metadata.team_id, metadata.organization_id,
        metadata.operation, metadata.provider, metadata.model,
    )  # fmt: skip
    try:
        is_clean = "".join(texts).isprintable() and max(map(len, texts)) <= MAX_TEXT
    except TypeError:
        is_clean = False  # one is missing, or is no text
    if not is_clean:
        texts = tuple(clean_text(text) or "" for text in texts)
    request_id, key_id, team_id, organization_id, operation, provider, model = texts
    if not (request_id and key_id and team_id and organization_id):
        raise _UnreadableRecordError(
            next(name for name, text in zip(_IDS, texts, strict=False) if not text)
        )
    verdicts: dict[str, str] | None = None
    if isinstance(guardrails := metadata.guardrails, str) and guardrails:
        pairs = [pair.partition("=") for pair in guardrails.split()]
        verdicts = {name: verdict for name, _, verdict in pairs} or None
    reserved: Reservation | None = None
    if isinstance(text := metadata.reserved, str):
        words = text.split(" ")  # as `reserved_text` writes them
        if len(words) >= RESERVED_NUMBERS:
            tokens_in, tokens_out, cost, taken_us = map(count_of, words[:RESERVED_NUMBERS])
            by_model = tuple(words[RESERVED_NUMBERS:])
            reserved = Reservation(tokens_in, tokens_out, cost, taken_us, by_model)
    return JudgedRequest(
        request_id=request_id,
        occurred_at=EPOCH + timedelta(microseconds=int(started_us)),
        key_id=key_id,
        team_id=team_id,
        organization_id=organization_id,
        decision=_DECISIONS.get(verdict, DecisionKind.DENY),
        operation=operation or None,
        provider=provider or None,
        model=model or None,
        is_streamed=metadata.streamed == "true",
        text_bytes=count_of(str(metadata.text_bytes)),
        guardrails=verdicts,
        reserved=reserved,
        service_tier=metadata.service_tier if metadata.service_tier in SERVICE_TIERS else None,
    )


class _Counts(dict[str, int]):
    """Whole numbers by their text, `MAX_COUNT` at most; 0 for anything else.

    Small ones are looked up in C.
    """

    def __missing__(self, text: str) -> int:
        if text.isdecimal() and text.isascii() and len(text) <= _MAX_DIGITS:
            return min(int(text), MAX_COUNT)
        return 0


count_of: Final = _Counts(
    {"-": 0} | {str(count): count for count in range(SMALL_COUNTS)}
).__getitem__


# The wire format. Classes of our own read only the texts of a record, as bytes: OTLP's own would
# reject a whole message for one text that is not UTF-8.

_PACKAGE: Final = "egret.access_log"
_Field = descriptor_pb2.FieldDescriptorProto


def _request_class() -> type[Message]:
    """Return the class that reads an `ExportLogsServiceRequest`; numbers are those of OTLP 1.x."""
    attribute = _type("AttributesEntry", key=(1, "string"), value=(2, "Value"))
    attribute.options.map_entry = True
    record = _type("Record", body=(5, "Value"), attributes=(6, "[Record.AttributesEntry]"))
    record.nested_type.append(attribute)
    file = descriptor_pb2.FileDescriptorProto(
        name="egret/access_log.proto",
        package=_PACKAGE,
        syntax="proto3",
        message_type=[
            _type("Value", text=(1, "bytes")),
            record,
            _type("Scope", log_records=(2, "[Record]")),
            _type("Resource", scope_logs=(2, "[Scope]")),
            _type("Request", resource_logs=(1, "[Resource]")),
        ],
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Request"))


def _type(name: str, **fields: tuple[int, str]) -> descriptor_pb2.DescriptorProto:
    """Return a message type; of each field the number and the type, a list in brackets."""
    message = descriptor_pb2.DescriptorProto(name=name)
    for field, (number, kind) in fields.items():
        added = message.field.add(name=field, number=number)
        added.label = _Field.LABEL_REPEATED if kind[0] == "[" else _Field.LABEL_OPTIONAL
        if kind in {"string", "bytes"}:
            added.type = _Field.TYPE_STRING if kind == "string" else _Field.TYPE_BYTES
        else:
            added.type = _Field.TYPE_MESSAGE
            added.type_name = f".{_PACKAGE}.{kind.strip('[]')}"
    return message


_REQUEST: Final[Any] = _request_class()


def values_of(message: bytes) -> Iterator[list[str]]:
    """Yield the values of each record in the order of `LogEntry`.

    An Envoy whose configuration is of release 0.1 sends them as attributes by name.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    for resource in _REQUEST.FromString(message).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                # A provider may send any bytes in a header; only its own text is damaged by it.
                if body := record.body.text:
                    yield body.decode(errors="replace").split("\n", _LINE_FEEDS)
                else:
                    texts = [record.attributes[name].text for name in LogEntry._fields[1:]]
                    yield [_FORM, *(text.decode(errors="replace") for text in texts)]
