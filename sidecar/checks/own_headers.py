"""What an answer says of its exchange and of limits, whether it is the provider's or our own."""

from __future__ import annotations

from typing import Final

from sidecar.checks.ledger import Ledger
from sidecar.domain.http import HeaderName
from sidecar.domain.limits import LimitStatus, Measure
from sidecar.domain.mutations import Metadata
from sidecar.domain.subject import Dialect
from sidecar.limits.budgets import highest_passed
from sidecar.mutations.limit_headers import limit_headers
from sidecar.mutations.timing import timing_headers

_Headers = tuple[tuple[str, bytes], ...]
_Pairs = list[tuple[str, str]]

_LOCAL: Final = (HeaderName.LIMITS, "local")
"""For whoever looks into it: the shared counts were away, and this worker's share decided."""


def own_headers(ledger: Ledger, dialect: Dialect, *, now: float) -> _Headers:
    """Return all headers of ours, for an answer that we write or change ourselves."""
    timing = timing_headers(
        ledger.spent(),
        request_id=ledger.request_id,
        since_start_seconds=ledger.since_start_seconds(),
    )
    limits = [(name, value.encode()) for name, value in _of_limits(ledger, dialect, now=now)]
    return (*timing, *limits)


def limit_metadata(ledger: Ledger, dialect: Dialect, *, now: float) -> Metadata:
    """Return the headers of limits for Envoy to write; it writes those of timing by itself."""
    return tuple(_of_limits(ledger, dialect, now=now))


def _of_limits(ledger: Ledger, dialect: Dialect, *, now: float) -> _Pairs:
    """Return how limits stand: the one that has no room, or all that the request has taken of.

    They are as this worker knows them: nobody is asked for a header.
    """
    if ledger.short is not None:
        return _refused(ledger, ledger.short, dialect, now=now)
    if not ledger.standings:
        return []
    headers = limit_headers(dialect, ledger.standings, now=now)
    if ledger.limits_are_local:
        return [*headers, _LOCAL]
    passed = highest_passed(ledger.standings)
    return [*headers, (HeaderName.BUDGET, str(passed))] if passed else headers


def _refused(ledger: Ledger, short: LimitStatus, dialect: Dialect, *, now: float) -> _Pairs:
    headers = limit_headers(dialect, [short], now=now)
    if short.limit.measure is Measure.COST:
        headers.append((HeaderName.SHOULD_RETRY, "false"))
    return [*headers, _LOCAL] if ledger.limits_are_local else headers
