"""What the access log brings back to us about a request, once it is over."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sidecar.domain.limits import Reservation
from sidecar.domain.mutations import Metadata
from sidecar.domain.usage import JudgedRequest

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def usage_metadata(request: JudgedRequest) -> Metadata:
    """Return what the dynamic metadata of *request* needs beside request, key and model.

    `transport.access_log` reads it. Numbers are text: Envoy would write them with an exponent.
    """
    since = request.occurred_at - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    pairs = [
        ("started_us", str(microseconds)),
        ("team_id", request.team_id),
        ("organization_id", request.organization_id),
    ]
    if request.operation:
        pairs.append(("operation", request.operation))
    if request.provider:
        pairs.append(("provider", request.provider))
    if request.is_streamed:
        pairs.append(("streamed", "true"))
    if request.text_bytes:
        pairs.append(("text_bytes", str(request.text_bytes)))
    if request.guardrails:
        verdicts = (f"{name}={verdict}" for name, verdict in request.guardrails.items())
        pairs.append(("guardrails", " ".join(verdicts)))
    if request.reserved is not None:
        pairs.append(("reserved", _reserved(request.reserved)))
    return tuple(pairs)


def _reserved(reserved: Reservation) -> str:
    tokens = f"{reserved.input_tokens} {reserved.output_tokens}"
    numbers = f"{tokens} {reserved.cost} {reserved.taken_us}"
    return " ".join((numbers, *reserved.by_model)) if reserved.by_model else numbers
