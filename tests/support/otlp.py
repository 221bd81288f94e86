"""A small OTLP receiver in this process: what an exporter sent over a real gRPC connection."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from typing_extensions import override

from sidecar.settings.telemetry import OtlpProtocol

Value = str | bool | int | float | tuple["Value", ...] | None


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it came over the wire; ids in hexadecimal, times in nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    status: str
    trace_state: str
    events: tuple[tuple[str, int], ...] = ()


class OtlpReceiver(TraceServiceServicer):
    """Keeps every export; `wait_for` hands out its spans by name."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.endpoint = ""
        self._arrived = threading.Condition()

    @override
    def Export(
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        return ExportTraceServiceResponse()

    def wait_for(self, count: int, seconds: float = 60.0) -> dict[str, ReceivedSpan]:
        """Return all spans by name once *count* have come; fewer after *seconds*."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._messages()) >= count, seconds)
            return {span.name: _span(span) for span in self._messages()}

    def resource(self) -> dict[str, Value]:
        """Return the resource of the first export."""
        return _attributes(self.requests[0].resource_spans[0].resource.attributes)

    def raw(self) -> bytes:
        """Return every byte that was sent, to look for what must not be in it."""
        return b"".join(request.SerializeToString() for request in self.requests)

    def _messages(self) -> list[SpanMessage]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """Run a receiver on a free port of the loopback."""
    receiver = OtlpReceiver()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call] # generated
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(grace=0).wait()


def _span(message: SpanMessage) -> ReceivedSpan:
    return ReceivedSpan(
        name=message.name,
        trace_id=message.trace_id.hex(),
        span_id=message.span_id.hex(),
        parent_id=message.parent_span_id.hex(),
        kind=SpanMessage.SpanKind.Name(message.kind),
        start_ns=message.start_time_unix_nano,
        end_ns=message.end_time_unix_nano,
        attributes=_attributes(message.attributes),
        status=message.status.StatusCode.Name(message.status.code),
        trace_state=message.trace_state,
        events=tuple((event.name, event.time_unix_nano) for event in message.events),
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return tuple(_value(item) for item in value.array_value.values)
        case _:
            return None


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(403)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextmanager
def refusing_collector(protocol: OtlpProtocol) -> Iterator[str]:
    """Yield the endpoint of one that takes nothing."""
    if protocol is OtlpProtocol.GRPC:
        with futures.ThreadPoolExecutor(max_workers=1) as threads:
            server = grpc.server(threads)  # knows no service: UNIMPLEMENTED
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            yield f"http://127.0.0.1:{port}"
            server.stop(grace=0).wait()
        return
    with http.server.HTTPServer(("127.0.0.1", 0), _Refusing) as web:
        threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
