"""Writes the facts of a request: dynamic metadata for Envoy, headers for the client."""

from __future__ import annotations

from typing import Final

from sidecar.domain.http import HeaderName, Metadata
from sidecar.domain.limits import Measure
from sidecar.domain.metadata import EPOCH, MetadataKey, reserved_text
from sidecar.domain.usage import JudgedRequest
from sidecar.limits.budgets import highest_passed
from sidecar.pipeline.limit_headers import limit_headers
from sidecar.pipeline.record import Clocks, RequestRecord
from sidecar.telemetry import sanitize
from sidecar.telemetry.traceparent import sampled_trace_id


def metadata_of(record: RequestRecord, *, now: float) -> Metadata:
    """Return the metadata of a request as it stands, and keep it as judged in the record.

    *now* is in monotonic seconds.
    """
    outcome = record.outcome()
    model = None if record.subject is None else sanitize.model_name(record.subject.model)
    record.judged = record.judge(outcome, model)
    pairs: list[tuple[str, str | float]] = [
        (MetadataKey.REQUEST_ID, record.request_id),
        (MetadataKey.VERDICT, outcome.value),
    ]
    if record.refused is not None:
        pairs.append((MetadataKey.ERROR, record.refused.value))
        if record.answer_status is not None:
            pairs.append((MetadataKey.ANSWER_STATUS, str(record.answer_status)))
    if model is not None:
        pairs.append((MetadataKey.MODEL, model))
    traceparent = record.traceparent
    if traceparent is not None and (trace_id := sampled_trace_id(traceparent)) is not None:
        pairs.append((MetadataKey.TRACE_ID, trace_id))
    if record.policy is not None:
        pairs.append((MetadataKey.POLICY, record.policy.name))
    if (owner := record.principal) is not None and record.judged is not None:
        pairs += (
            (MetadataKey.KEY_ID, owner.key_id),
            (MetadataKey.TEAM, owner.team_name),
            (MetadataKey.ORGANIZATION, owner.organization_name),
        )
        if record.caller is not None:
            pairs.append((MetadataKey.PRIORITY, record.caller.priority.value))
        if record.estimated_tokens is not None:
            pairs.append((MetadataKey.ESTIMATED_TOKENS, str(record.estimated_tokens)))
        pairs += usage_metadata(record.judged)
    authorize, guardrails, own = record.spent_seconds(now)
    pairs += (
        (MetadataKey.SERVER_TIMING, server_timing(authorize, guardrails, own)),
        (MetadataKey.AUTHORIZE_US, round(authorize * 1e6)),
        (MetadataKey.GUARDRAILS_US, round(guardrails * 1e6)),
        (MetadataKey.EGRET_US, round(own * 1e6)),
    )
    return tuple(pairs)


def usage_metadata(request: JudgedRequest) -> list[tuple[str, str]]:
    """Return the facts for the accounting of *request*, beside key and model."""
    since = request.occurred_at - EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    pairs = [
        (MetadataKey.STARTED_US, str(microseconds)),
        (MetadataKey.TEAM_ID, request.team_id),
        (MetadataKey.ORGANIZATION_ID, request.organization_id),
    ]
    if request.operation:
        pairs.append((MetadataKey.OPERATION, request.operation))
    if request.provider:
        pairs.append((MetadataKey.PROVIDER, request.provider))
    if request.is_streamed:
        pairs.append((MetadataKey.STREAMED, "true"))
    if request.text_bytes:
        pairs.append((MetadataKey.TEXT_BYTES, str(request.text_bytes)))
    if request.guardrails:
        verdicts = [f"{name}={verdict}" for name, verdict in request.guardrails.items()]
        pairs.append((MetadataKey.GUARDRAILS, " ".join(verdicts)))
    if request.reserved is not None:
        pairs.append((MetadataKey.RESERVED, reserved_text(request.reserved)))
    return pairs


def server_timing(authorize: float, guardrails: float, own: float) -> str:
    """Return a `server-timing` value; durations in milliseconds (W3C Server Timing)."""
    return (
        f"authorize;dur={authorize * 1000:.3f}, "
        f"guardrails;dur={guardrails * 1000:.3f}, "
        f"egret;dur={own * 1000:.3f}"
    )


_LOCAL: Final = (HeaderName.LIMITS, "local")
"""For diagnosis: the shared counts were unavailable, and this worker's share decided."""


def own_headers(record: RequestRecord, clocks: Clocks) -> tuple[tuple[str, bytes], ...]:
    """Return all headers of Egret, for an answer that Egret writes or changes itself."""
    now = clocks.monotonic()
    age = now - record.started_at
    timing = server_timing(*record.spent_seconds(now))
    return (
        (HeaderName.EGRET_REQUEST_ID, record.request_id.encode("ascii", "replace")),
        (HeaderName.RESPONSE_TIME, f"{age * 1000:.3f}ms".encode()),
        (HeaderName.SERVER_TIMING, timing.encode()),
        *[(name, value.encode()) for name, value in limit_pairs(record, clocks)],
    )


def limit_pairs(record: RequestRecord, clocks: Clocks) -> tuple[tuple[str, str], ...]:
    """Return the state of the limit without room, or of all that the request has reserved of.

    They are as last seen by this worker: no round trip is made for a header.
    """
    allowance = record.allowance
    if allowance.short is not None:
        headers = limit_headers(record.dialect, [allowance.short], now=clocks.wall())
        if allowance.short.limit.measure is Measure.COST:
            headers.append((HeaderName.SHOULD_RETRY, "false"))
    elif allowance.standings:
        headers = limit_headers(record.dialect, allowance.standings, now=clocks.wall())
        passed = highest_passed(allowance.standings)
        if passed and not allowance.is_local:
            headers.append((HeaderName.BUDGET, str(passed)))
    else:
        return ()
    return tuple([*headers, _LOCAL] if allowance.is_local else headers)
