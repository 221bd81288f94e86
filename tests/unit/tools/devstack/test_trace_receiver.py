from __future__ import annotations

import json
from pathlib import Path

import grpc
from egret_tools.devstack.trace_receiver import EXPORT_METHOD, running_trace_receiver
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.resource.v1 import resource_pb2 as resource
from opentelemetry.proto.trace.v1 import trace_pb2 as trace


def attribute(key: str, **value: str | float | bytes) -> common.KeyValue:
    return common.KeyValue(key=key, value=common.AnyValue(**value))  # type: ignore[arg-type] # one of several


async def test_received_spans_become_lines_of_a_file(tmp_path: Path) -> None:
    """Ids in hexadecimal, so that they can be compared with headers and logs."""
    event = trace.Span.Event(
        name="said", time_unix_nano=5, attributes=[attribute("n", int_value=1)]
    )
    span = trace.Span(
        name="egret.exchange",
        kind=trace.Span.SPAN_KIND_SERVER,
        trace_id=b"\x01" * 16,
        span_id=b"\x02" * 8,
        parent_span_id=b"\x03" * 8,
        start_time_unix_nano=1,
        end_time_unix_nano=2,
        attributes=[attribute("a", string_value="x"), attribute("b", bool_value=True)],
        events=[event],
    )
    request = wire.ExportTraceServiceRequest(
        resource_spans=[
            trace.ResourceSpans(
                resource=resource.Resource(
                    attributes=[attribute("service.name", string_value="egret")]
                ),
                scope_spans=[trace.ScopeSpans(spans=[span])],
            )
        ]
    )
    file = tmp_path / "traces.jsonl"
    async with (
        running_trace_receiver(file) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        export = channel.unary_unary(
            EXPORT_METHOD,
            request_serializer=wire.ExportTraceServiceRequest.SerializeToString,
            response_deserializer=wire.ExportTraceServiceResponse.FromString,
        )
        await export(request)
        await export(request)
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first == second
    assert first == {
        "service": "egret",
        "name": "egret.exchange",
        "kind": "SERVER",
        "trace_id": "01" * 16,
        "span_id": "02" * 8,
        "parent_span_id": "03" * 8,
        "start_ns": 1,
        "end_ns": 2,
        "status": "UNSET",
        "attributes": {"a": "x", "b": True},
        "events": [{"name": "said", "time_ns": 5, "attributes": {"n": 1}}],
    }
