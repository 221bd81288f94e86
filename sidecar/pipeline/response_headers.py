"""The headers of Egret on an answer, whether it is the provider's or Egret's own."""

from __future__ import annotations

from typing import Final

from sidecar.domain.http import HeaderName, Metadata
from sidecar.domain.limits import Measure
from sidecar.limits.budgets import highest_passed
from sidecar.pipeline.limit_headers import limit_headers
from sidecar.pipeline.record import NO_ALLOWANCE, Clocks, RequestRecord
from sidecar.pipeline.request_metadata import server_timing, spent_seconds

_LOCAL: Final = (HeaderName.LIMITS, "local")
"""For diagnosis: the shared counts were unavailable, and this worker's share decided."""


def own_headers(record: RequestRecord, clocks: Clocks) -> tuple[tuple[str, bytes], ...]:
    """Return all headers of Egret, for an answer that Egret writes or changes itself."""
    now = clocks.monotonic()
    age = now - record.started_at
    timing = server_timing(*spent_seconds(record, now))
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
    if allowance is NO_ALLOWANCE:
        return ()
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


def limit_metadata(record: RequestRecord, clocks: Clocks) -> Metadata:
    """Return the headers of limits as metadata for Envoy, which writes those of timing itself."""
    return limit_pairs(record, clocks)
