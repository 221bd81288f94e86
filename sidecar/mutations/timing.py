"""How long things took, as headers and metadata write it."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.domain.http import HeaderName
from sidecar.domain.mutations import Metadata


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds spent so far on one exchange; `egret` is our own share of all of it."""

    authorize: float
    guardrails: float
    egret: float


def server_timing(spent: Spent) -> str:
    """Return a `server-timing` value; durations in milliseconds (W3C Server Timing)."""
    return (
        f"authorize;dur={spent.authorize * 1000:.3f}, "
        f"guardrails;dur={spent.guardrails * 1000:.3f}, "
        f"egret;dur={spent.egret * 1000:.3f}"
    )


def timing_metadata(spent: Spent) -> Metadata:
    """Return the timing as dynamic metadata, in microseconds and as a finished header value."""
    return (
        ("server_timing", server_timing(spent)),
        ("authorize_us", round(spent.authorize * 1e6)),
        ("guardrails_us", round(spent.guardrails * 1e6)),
        ("egret_us", round(spent.egret * 1e6)),
    )


def timing_headers(
    spent: Spent, *, request_id: str, since_start_seconds: float
) -> tuple[tuple[str, bytes], ...]:
    """Return the headers an answer carries when Egret writes them itself."""
    return (
        (HeaderName.EGRET_REQUEST_ID, request_id.encode("ascii", "replace")),
        (HeaderName.RESPONSE_TIME, f"{since_start_seconds * 1000:.3f}ms".encode()),
        (HeaderName.SERVER_TIMING, server_timing(spent).encode()),
    )
