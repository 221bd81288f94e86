"""A collector that others wrote: rotel receives spans over OTLP and prints what it understood."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.collector import Collector, running_collector

POLL_SECONDS: Final = 0.05

Span = dict[str, Any]

_BLOCK: Final = re.compile(rb"^(?=ResourceSpans #|Span #)", re.MULTILINE)
_POINT: Final = re.compile(r"^(?:Number|Histogram)DataPoints #", re.MULTILINE)
_FIELD: Final = re.compile(r"^(?: {4})?(\w[\w ]*?) *: (.*)$")
_PAIR: Final = re.compile(r"^ {5}(?: {5})?-> ([^:]+): (.*)$")
_VALUE: Final = re.compile(r"^(Str|Int|Double|Bool)\((.*?)\)?$", re.DOTALL)
_ITEM: Final = re.compile(r"Str\((.*?)\)(?:, |$)")


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one series; of a histogram the count, and the traces it leads to."""

    attributes: dict[str, Any]
    began_ns: int
    value: float
    traces: tuple[str, ...]


class Rotel:
    """Where it listens, and what has arrived."""

    def __init__(self, collector: Collector) -> None:
        self.pid = collector.pid
        self.grpc_port = collector.grpc_port
        self.grpc_endpoint = collector.grpc_endpoint
        self.http_endpoint = collector.http_endpoint
        self._printed = collector.printed
        self._offset = 0
        self._sender = {"service": "", "instance": ""}
        self._spans: list[Span] = []

    @property
    def printed(self) -> str:
        """All that it printed."""
        return self._printed.read_text(encoding="utf-8")

    def spans(self) -> list[Span]:
        """Return every span it has received so far, in the order they came."""
        with self._printed.open("rb") as printed:
            printed.seek(self._offset)
            blocks = _BLOCK.split(printed.read())
        # The last one may still be written: it is read, and will be read again.
        *whole, last = blocks
        for block in whole:
            self._offset += len(block)
            self._spans += self._read(block)
        return [*self._spans, *self._read(last)]

    def points(self, metric: str) -> list[Point]:
        """Return every point of a metric it has received so far, in the order they came."""
        return [
            _point(point)
            for block in self.printed.split("\nMetric #")
            if f"     -> Name: {metric}\n" in block
            for point in _POINT.split(block)[1:]
        ]

    async def trace(self, is_wanted: Callable[[Span], bool], names: set[str]) -> list[Span]:
        """Return the trace of the first span that is wanted, once spans of all *names* are there.

        Raises:
            AssertionError: they do not come in time.
        """
        deadline = time.monotonic() + 60
        while True:
            spans = self.spans()
            trace_id = next((span["trace_id"] for span in spans if is_wanted(span)), None)
            trace = [span for span in spans if span["trace_id"] == trace_id]
            come = {span["name"] for span in trace}
            if trace and names <= come:
                return trace
            if time.monotonic() > deadline:
                raise AssertionError(f"did not come: {names - come}; came: {come}")
            await asyncio.sleep(POLL_SECONDS)

    def _read(self, block: bytes) -> Iterator[Span]:
        text = block.decode(errors="replace")
        if text.startswith("ResourceSpans #"):
            known = _attributes(text)
            self._sender = {
                "service": known.get("service.name", ""),
                "instance": known.get("service.instance.id", ""),
            }
        elif text.startswith("Span #") and (span := _span(text)) is not None:
            yield {**self._sender, **span}


@asynccontextmanager
async def running_rotel(place: Path, *, prints: str = "traces") -> AsyncIterator[Rotel]:
    """Run it on two free ports of the loopback; it prints traces or metrics, in *place*."""
    options = (f"--debug-log={prints}", "--debug-log-verbosity=detailed")
    async with running_collector(place, *options) as collector:
        yield Rotel(collector)


def _span(text: str) -> Span | None:
    """Return a span with ids in hexadecimal and times in ns; None where it is not all there."""
    head, _, events = text.partition("\nEvents:\n")
    fields = _named(_FIELD, head)
    if "End time" not in fields:
        return None
    return {
        "name": fields["Name"],
        "kind": fields["Kind"].removeprefix("SPAN_KIND_"),
        "trace_id": fields["Trace ID"],
        "span_id": fields["ID"],
        "parent_span_id": fields["Parent ID"],
        "start_ns": int(fields["Start time"]),
        "end_ns": int(fields["End time"]),
        "status": fields.get("Status code", "UNSET").removeprefix("STATUS_CODE_"),
        "attributes": _attributes(head),
        "events": [_event(one) for one in events.split("SpanEvent #")[1:]],
    }


def _point(text: str) -> Point:
    head, _, values = text.partition("StartTimestamp: ")
    found = re.search(r"^(?:Value|Count): (.*)$", values, re.MULTILINE)
    assert found is not None, text
    return Point(
        attributes=_attributes(head),
        began_ns=int(values.partition("\n")[0]),
        value=float(found[1]),
        traces=tuple(re.findall(r"-> Trace ID: (\w+)", values)),
    )


def _event(text: str) -> dict[str, Any]:
    pairs = _pairs(text)
    return {"name": pairs["Name"], "time_ns": int(pairs["Timestamp"])}


def _attributes(text: str) -> dict[str, Any]:
    return {name: _value(value) for name, value in _pairs(text).items()}


def _pairs(text: str) -> dict[str, str]:
    return _named(_PAIR, text)


def _named(line: re.Pattern[str], text: str) -> dict[str, str]:
    found = (line.match(one) for one in text.splitlines())
    return {one[1]: one[2] for one in found if one is not None}


def _value(text: str) -> object:
    if text.startswith("Slice("):
        return _ITEM.findall(text.removeprefix("Slice(").removesuffix(")"))
    found = _VALUE.match(text)
    if found is None:
        return text
    kind, value = found.groups()
    match kind:
        case "Int":
            return int(value)
        case "Double":
            return float(value)
        case "Bool":
            return value == "true"
        case _:
            return value
