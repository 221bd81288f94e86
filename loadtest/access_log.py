"""Messages of Envoy's access log, as `envoy/egret.yaml.j2` has them written."""

from __future__ import annotations

import json
from typing import Final

from sidecar._generated.opentelemetry.proto.collector.logs.v1 import (
    logs_service_pb2 as service,
)
from sidecar.domain.usage import DecisionKind, JudgedRequest
from sidecar.pipeline.reply import usage_metadata

_VERDICTS: Final = {
    DecisionKind.ALLOW: "allowed",
    DecisionKind.REDACT: "redacted",
    DecisionKind.DENY: "refused",
}


def metadata(request: JudgedRequest) -> dict[str, str | float]:
    """Return the dynamic metadata that the checks leave of *request*."""
    named: dict[str, str | float] = {
        "request_id": request.request_id,
        "verdict": _VERDICTS[request.decision],
        "key_id": request.key_id,
        "egret_us": 1250,
    }
    if request.model is not None:
        named["model"] = request.model
    return {**named, **dict(usage_metadata(request))}


def attributes(request: JudgedRequest, **changes: str) -> dict[str, str]:
    """Return the attributes of a record about a request that was answered."""
    return {
        "egret": json.dumps(metadata(request)),
        "status": "200",
        "flags": "-",
        "content_type": "application/json",
        "provider_request_id": "-",
        "received_bytes": "0",
        "sent_bytes": "0",
        "method": "POST",
        "duration_ms": "250",
        "duration_us": "250000",
        "first_byte_us": "125000",
        "output_us": "100000",
        "usage_status": "1",
        "model": "gpt-4o-2024-08-06",
        "input_tokens": "100",
        "output_tokens": "20",
        "cached_input_tokens": "0",
        "cache_write_input_tokens": "0",
        "reasoning_tokens": "0",
    } | changes


def export(*records: dict[str, str]) -> bytes:
    """Return one message with *records*."""
    request = service.ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for record in records:
        written = scope.log_records.add()
        for name, value in record.items():
            attribute = written.attributes.add()
            attribute.key = name
            attribute.value.string_value = value
    return request.SerializeToString()
