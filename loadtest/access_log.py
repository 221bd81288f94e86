"""Messages of Envoy's access log, as `envoy/egret.yaml.j2` has them written."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Final

from sidecar._generated.opentelemetry.proto.collector.logs.v1 import (
    logs_service_pb2 as service,
)
from sidecar.domain.metadata import EPOCH, MetadataKey, reserved_text
from sidecar.domain.usage import DecisionKind, JudgedRequest, LogEntry

_VERDICTS: Final = {
    DecisionKind.ALLOW: "allowed",
    DecisionKind.REDACT: "redacted",
    DecisionKind.DENY: "refused",
}

_ANSWERED: Final = LogEntry(*(["1"] + ["-"] * (len(LogEntry._fields) - 1)))._replace(
    status="200",
    content_type="application/json",
    received_bytes="0",
    sent_bytes="0",
    method="POST",
    duration_ms="250",
    duration_us="250000",
    first_byte_us="125000",
    output_us="100000",
    usage_status="1",
    model="gpt-4o-2024-08-06",
    input_tokens="100",
    output_tokens="20",
    cached_input_tokens="0",
    cache_write_input_tokens="0",
    reasoning_tokens="0",
)


def metadata(request: JudgedRequest) -> dict[str, str | float]:
    """Return the dynamic metadata that the checks leave of *request*."""
    named: dict[str, str | float | None] = {
        MetadataKey.REQUEST_ID: request.request_id,
        MetadataKey.VERDICT: _VERDICTS[request.decision],
        MetadataKey.KEY_ID: request.key_id,
        MetadataKey.EGRET_US: 1250,
        MetadataKey.MODEL: request.model,
        MetadataKey.STARTED_US: str((request.occurred_at - EPOCH) // timedelta(microseconds=1)),
        MetadataKey.TEAM_ID: request.team_id,
        MetadataKey.ORGANIZATION_ID: request.organization_id,
        MetadataKey.OPERATION: request.operation,
        MetadataKey.PROVIDER: request.provider,
    }
    if request.is_streamed:
        named[MetadataKey.STREAMED] = "true"
    if request.text_bytes:
        named[MetadataKey.TEXT_BYTES] = str(request.text_bytes)
    if request.guardrails:
        verdicts = [f"{name}={verdict}" for name, verdict in request.guardrails.items()]
        named[MetadataKey.GUARDRAILS] = " ".join(verdicts)
    named[MetadataKey.SERVICE_TIER] = request.service_tier
    if request.reserved is not None:
        named[MetadataKey.RESERVED] = reserved_text(request.reserved)
    return {name: value for name, value in named.items() if value is not None}


def entry(request: JudgedRequest, **changes: str) -> LogEntry:
    """Return the entry of a request that was answered."""
    return _ANSWERED._replace(**{"egret": json.dumps(metadata(request)), **changes})


def export(*entries: LogEntry) -> bytes:
    """Return one message with *entries*."""
    request = service.ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for one in entries:
        scope.log_records.add().body.string_value = "\n".join(one)
    return request.SerializeToString()
