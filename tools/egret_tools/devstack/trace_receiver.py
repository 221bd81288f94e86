"""A small OTLP receiver on loopback: spans of Envoy and of Egret in one file, a line each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TextIO

import grpc
import orjson
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

EXPORT_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""Past this nothing more is written: a benchmark must not fill the disk."""

JsonObject = dict[str, object]


@asynccontextmanager
async def running_trace_receiver(file: Path) -> AsyncIterator[int]:
    """Append received spans to *file* until the block ends; yields the port."""
    server = grpc.aio.server()
    with _opened(file) as output:
        server.add_generic_rpc_handlers((_exporting_to(output),))
        bound = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield bound
        finally:
            await server.stop(0.2)


def spans_of(request: wire.ExportTraceServiceRequest) -> Iterator[JsonObject]:
    """Yield every span with the service it comes from; ids in hexadecimal, times in ns."""
    for resource in request.resource_spans:
        attributes = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {"service": attributes.get("service.name"), **_span(span)}


def _opened(file: Path) -> TextIO:
    return file.open("a", encoding="utf-8", buffering=1)


def _exporting_to(
    output: TextIO,
) -> grpc.GenericRpcHandler[wire.ExportTraceServiceRequest, wire.ExportTraceServiceResponse]:
    async def export(
        request: wire.ExportTraceServiceRequest, _: object
    ) -> wire.ExportTraceServiceResponse:
        if output.tell() < MAX_FILE_BYTES:
            lines = b"".join(orjson.dumps(span) + b"\n" for span in spans_of(request))
            output.write(lines.decode())
            output.flush()
        return wire.ExportTraceServiceResponse()

    service, method = EXPORT_METHOD[1:].split("/")
    unary = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=wire.ExportTraceServiceRequest.FromString,
        response_serializer=wire.ExportTraceServiceResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(service, {method: unary})


def _span(span: trace_pb2.Span) -> JsonObject:
    return {
        "name": span.name,
        "kind": trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex(),
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "status": trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        "attributes": _attributes(span.attributes),
        "events": [
            {
                "name": event.name,
                "time_ns": event.time_unix_nano,
                "attributes": _attributes(event.attributes),
            }
            for event in span.events
        ],
    }


def _attributes(pairs: object) -> JsonObject:
    return {pair.key: _value(pair.value) for pair in pairs}  # type: ignore[attr-defined] # no common type for repeated fields in the stubs


def _value(value: common_pb2.AnyValue) -> object:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case "bytes_value":
            return value.bytes_value.hex()
        case name:
            scalar: object = getattr(value, name)
            return scalar
