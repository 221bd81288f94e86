"""Turns all that leaves a worker on account of a conversation into text that two runs share.

Left out is only what no two runs share: times, made-up ids, ports, and the names of exceptions,
which are nobody's business outside.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.mmap_dict import MmapedDict

from loadtest.access_log import export
from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar.domain.usage import LogEntry
from tests.contract.recorded.conversation import Conversation, Crowd
from tests.contract.recorded.envoy import Transcript

LONG_TEXT: Final = 4_000
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_WAIT: Final = re.compile(r"Try again in \d+ s")
_MICROSECONDS: Final = re.compile(r"\b\d{16}\b")
_TIMING: Final = frozenset({"server-timing", "x-response-time", "server_timing"})
_RESETS: Final = re.compile(r"retry-after|.*ratelimit-.*reset.*")
_EXCEPTION: Final = re.compile(r"[A-Z]\w*(Error|Exception|Violation)")


def plain(message: Message) -> dict[str, Any]:
    """Return a message as JSON values; bytes as text where they are text."""
    if message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        fields: Any = message
        return {name: _struct_value(value) for name, value in sorted(fields.fields.items())}
    return {field.name: _field(field, value) for field, value in message.ListFields()}


def _struct_value(value: Any) -> object:
    kind = value.WhichOneof("kind")
    return plain(value.struct_value) if kind == "struct_value" else getattr(value, kind)


def _field(field: FieldDescriptor, value: Any) -> object:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: _value(field, one) for key, one in sorted(value.items())}
    if field.is_repeated:
        return [_value(field, one) for one in value]
    return _value(field, value)


def _value(field: FieldDescriptor, value: Any) -> object:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return _text(value)
    if field.enum_type is not None and value in field.enum_type.values_by_number:
        return field.enum_type.values_by_number[value].name
    return value


def _text(value: bytes) -> object:
    try:
        text: object = value.decode()
    except UnicodeDecodeError:
        text = {"hex": value.hex()}
    if len(value) <= LONG_TEXT:
        return text
    digest = hashlib.sha256(value).hexdigest()
    return {"length": len(value), "sha256": digest, "start": value[:200].decode("latin-1")}


def answer_of(message: ext.ProcessingResponse) -> dict[str, Any]:
    """Return an answer without its times."""
    shown = plain(message)
    shown = {name: shown[name] for name in sorted(shown)}
    _shorten_headers(shown)
    normal = normalised(shown)
    assert isinstance(normal, dict)
    return normal


def _shorten_headers(shown: Any) -> None:
    """Write `{"header": {"key": …, "raw_value": …}}` as a pair, where it holds nothing else."""
    for name, value in shown.items() if isinstance(shown, dict) else ():
        if name == "set_headers":
            shown[name] = [_pair(one) for one in value]
        else:
            _shorten_headers(value)


def _pair(option: dict[str, Any]) -> object:
    header = option.get("header", {})
    if option.keys() == {"header"} and header.keys() == {"key", "raw_value"}:
        return f"{header['key']}: {_header_value(header['key'], header['raw_value'])}"
    return option


def _header_value(name: str, value: object) -> object:
    if name in _TIMING:
        return _NUMBER.sub("N", str(value))
    return "RESET" if _RESETS.fullmatch(name) else value


def normalised(value: Any, name: str = "") -> object:
    """Return a value of JSON without times and made-up ids."""
    match value:
        case dict():
            return {key: normalised(one, key) for key, one in value.items()}
        case list() | tuple():
            return [normalised(one, name) for one in value]
        case str():
            return _normal_text(value, name)
        case int() | float() if _is_time(name):
            return "N"
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _normal_text(value: str, name: str) -> str:
    if _is_time(name):
        return "N"
    value = _WAIT.sub("Try again in N s", _UUID.sub("UUID", value))
    if name == "reserved":
        value = _MICROSECONDS.sub("N", value)
    if _EXCEPTION.fullmatch(value):
        return "AN_EXCEPTION"
    return str(_header_value(name, value))


def _is_time(name: str) -> bool:
    return name in {"ms", "timestamp", "started_us"} or name.endswith(("_us", "_ms", "_seconds"))


def transcript_of(transcript: Transcript) -> dict[str, object]:
    """Return the messages in order, and how the call ended."""
    lines = [line if isinstance(line, str) else answer_of(line) for line in transcript.lines]
    return {"messages": lines, "status": f"{transcript.code} {transcript.details}".strip()}


# Log lines.

_KEPT_OF_OTHERS: Final = ("event", "level", "kind", "part", "guardrail")
_IN_THE_BACKGROUND: Final = ("key", "policies", "policy", "schema", "usage", "store", "worker")
"""How events begin that come of themselves, some time after a conversation."""


def log_lines(lines: Iterable[Mapping[str, Any]]) -> list[object]:
    """Return the lines about exchanges whole, and the kind of each other line."""
    shown: list[object] = []
    for line in lines:
        event = str(line.get("event"))
        if event == "exchange.completed":
            shown.append(normalised(dict(sorted(line.items()))))
        elif not event.startswith(_IN_THE_BACKGROUND):
            shown.append({name: line[name] for name in _KEPT_OF_OTHERS if name in line})
    return shown


# Metrics.

_read: Final = cast(
    "Callable[[str], Iterable[tuple[str, float, float, int]]]",
    MmapedDict.read_all_values_from_file,  # untyped (0.26)
)

_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

_OWN_PACE: Final = re.compile(
    r"egret_(event_loop|gc_|database_|key_cache_entries|polic|usage_spool|spans|workers|worker_"
    r"|build|limit_corrections|key_changes|in_flight|metric_pushes|usage_records|usage_dup"
    r"|known_message)"
)
"""What changes of itself, or some time after a conversation."""


def counts(exposition: str) -> Counter[str]:
    """Return every count of an exposition: of time, how often it was measured, never how long."""
    found: Counter[str] = Counter()
    family = kind = ""
    for line in exposition.splitlines():
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
        elif line[0] != "#":
            text, _, value = line.rpartition(" ")
            name, _, labels = text.partition("{")
            if not name.endswith("_bucket") and _is_counted(family, kind, name):
                found[_series(name, _LABEL.findall(labels))] += round(float(value) * 1e9)
    return found


def counts_in_files(directory: Path) -> Counter[str]:
    """Return the same from the files of workers, which the exposition adds up.

    To make an exposition of all files takes thirty times as long as to look at their numbers.
    """
    found: Counter[str] = Counter()
    for kind in ("counter", "histogram"):
        for file in directory.glob(f"{kind}_*.db"):
            for key, value, _, _ in _read(str(file)):
                if series := _series_of(key, kind):
                    found[series] += round(value * 1e9)
    return found


@cache
def _series_of(key: str, kind: str) -> str:
    """Return the name that a sample of a file is counted by, empty if it is not counted.

    A file has the observations in each bucket and not their number, which is the sum.
    """
    family, name, labels, _ = json.loads(key)
    if name.endswith("_bucket"):
        name = name.removesuffix("_bucket") + "_count"
        del labels["le"]
    if not _is_counted(family, kind, name):
        return ""
    return _series(name, [(label, _escape(text)) for label, text in labels.items()])


def _is_counted(family: str, kind: str, name: str) -> bool:
    if not family.startswith("egret_") or _OWN_PACE.match(family):
        return False
    if kind == "counter":
        return name.endswith("_total")
    measures_time = "_seconds" in family or "_per_second" in family
    return kind == "histogram" and name.endswith("_count" if measures_time else ("_count", "_sum"))


def _series(name: str, labels: Iterable[tuple[str, str]]) -> str:
    pairs = sorted(f"{label}={text}" for label, text in labels)
    return f"{name}{{{','.join(pairs)}}}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def changes(before: Counter[str], after: Counter[str]) -> list[str]:
    """Return the counts that changed, in the order of their names."""
    return sorted(
        f"{name} {value / 1e9:.9g}" for name in after if (value := after[name] - before[name])
    )


# Spans.


def spans_by_trace(spans: Iterable[Span]) -> dict[str, list[dict[str, Any]]]:
    """Return the spans of each trace, parents before their children, as text."""
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id.hex(), []).append(span)
    return {trace: _told(own) for trace, own in traces.items()}


def _told(spans: list[Span]) -> list[dict[str, Any]]:
    names = {span.span_id: span.name for span in spans}
    told = [_span(span, names) for span in spans]
    return sorted(told, key=lambda one: json.dumps(one, sort_keys=True))


def _span(span: Span, names: Mapping[bytes, str]) -> dict[str, Any]:
    attributes = {one.key: _attribute(one.value) for one in span.attributes}
    told: dict[str, Any] = {
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind),
        "parent": names.get(span.parent_span_id, "Envoy's" if span.parent_span_id else "none"),
        "attributes": normalised(dict(sorted(attributes.items()))),
    }
    if span.status.code or span.status.message:
        told["status"] = f"{span.status.code} {span.status.message}".strip()
    if span.events:
        told["events"] = [event.name for event in span.events]
    return told


def _attribute(value: Any) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_attribute(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)


# The access log.


def access_log_record(conversation: Conversation, transcript: Transcript) -> dict[str, str] | None:
    """Return the values that Envoy would log of the request; None without our metadata."""
    metadata: dict[str, Any] = {}
    status = "200"
    for answer in transcript.answers:
        if answer.HasField("dynamic_metadata"):
            metadata.update(plain(answer.dynamic_metadata).get("egret", {}))
        if answer.HasField("immediate_response"):
            status = str(answer.immediate_response.status.code)
    if "request_id" not in metadata:
        return None
    name = conversation.name
    ended = {} if isinstance(conversation, Crowd) else conversation.ended
    return {
        "egret": json.dumps(metadata),
        "stream": f"stream {name}",
        "upstream": "127.0.0.1:443" if status == "200" else "-",
        "status": status,
        "flags": "-",
        "content_type": "application/json",
        "provider_request_id": "req_1",
        "received_bytes": "200",
        "sent_bytes": "300",
        "answer_bytes": "400",
        "method": "POST",
        "duration_ms": "250",
        "duration_us": "250000",
        "first_byte_us": "125000",
        "output_us": "100000",
        "usage_status": "1" if status == "200" else "-",
        "model": "gpt-4o-2024-08-06" if status == "200" else "-",
        "input_tokens": "100" if status == "200" else "-",
        "output_tokens": "20" if status == "200" else "-",
        "cached_input_tokens": "40" if status == "200" else "-",
        "cache_write_input_tokens": "-",
        "reasoning_tokens": "5" if status == "200" else "-",
        **ended,
    }


def export_message(records: Iterable[Mapping[str, str]]) -> bytes:
    """Return one message of the access log."""
    return export(*(LogEntry(form="1", **record) for record in records))
