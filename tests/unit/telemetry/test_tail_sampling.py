"""Which exchanges are traced although nobody sampled them."""

from __future__ import annotations

import pytest
from msgspec import structs

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import Verdict
from sidecar.domain.report import ExchangeOutcome, ExchangeReport
from sidecar.telemetry.tail_sampling import TailSampler
from tests.support.reports import redacted_report, results, timings

PLAIN = structs.replace(redacted_report(), results=())
REFUSED = structs.replace(PLAIN, outcome=ExchangeOutcome.REFUSED)
REDACTED, SHADOWED, OPEN = results()


def _report(base: ExchangeReport = PLAIN, **changes: object) -> ExchangeReport:
    return structs.replace(base, **changes)


@pytest.mark.parametrize(
    ("report", "is_kept"),
    [
        pytest.param(PLAIN, False, id="redacted"),
        pytest.param(_report(results=(REDACTED, SHADOWED)), False, id="a block in shadow"),
        pytest.param(_report(REFUSED, error=ErrorKind.INVALID_API_KEY), False, id="no good key"),
        pytest.param(_report(REFUSED, error=ErrorKind.RATE_LIMIT_EXCEEDED), False, id="a limit"),
        pytest.param(_report(outcome=ExchangeOutcome.ABORTED), False, id="a client that left"),
        pytest.param(_report(REFUSED, error=ErrorKind.CONTENT_BLOCKED), True, id="blocked"),
        pytest.param(_report(REFUSED, error=ErrorKind.UNSCANNED_CONTENT), True, id="unscanned"),
        pytest.param(_report(outcome=ExchangeOutcome.FAILED), True, id="failed"),
        pytest.param(_report(results=(REDACTED, OPEN)), True, id="failed open"),
        pytest.param(
            _report(results=(OPEN._replace(verdict=Verdict.TIMEOUT_OPEN),)),
            True,
            id="timed out open",
        ),
        pytest.param(_report(**timings(0.25)), False, id="as slow as is allowed"),
        pytest.param(_report(**timings(0.26)), True, id="slower"),
    ],
)
def test_what_somebody_will_ask_about_is_kept(report: ExchangeReport, *, is_kept: bool) -> None:
    """And nothing that costs a stranger nothing."""
    assert TailSampler(slow_seconds=0.25, per_second=10).keeps(report) is is_kept


def _at(second: float) -> ExchangeReport:
    return _report(
        outcome=ExchangeOutcome.FAILED,
        started_at=second,
        seconds=0.0,
    )


def test_a_flood_is_kept_up_to_so_many_a_second() -> None:
    """Room comes back with time, never beyond one second's, and not from a clock gone back."""
    sampler = TailSampler(slow_seconds=1, per_second=2)
    moments = (10, 10, 10, 10.5, 10.5, 9, 9, 60, 60, 60)

    assert [sampler.keeps(_at(moment)) for moment in moments] == [
        True, True, False, True, False, False, False, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("per_second", "kept"), [(0.0, 0), (0.5, 1)])
def test_few_or_none_may_be_wanted(per_second: float, kept: int) -> None:
    """One every two seconds is one at once, then a wait."""
    sampler = TailSampler(slow_seconds=1, per_second=per_second)

    assert sum(sampler.keeps(_at(10.0)) for _ in range(5)) == kept
    assert sampler.keeps(_at(12.0)) is bool(kept)
