from __future__ import annotations

import pytest

from loadtest.bench_overload import overload_figures, overload_grid
from loadtest.load import Measured

PEAK = Measured(
    requests=20_000, seconds=10, errors=0, dropped=0, p50_ms=1, p95_ms=2, p99_ms=3, max_ms=9
)
OVER = Measured(
    requests=36_000,
    seconds=10,
    errors=17_001,
    dropped=4_000,
    p50_ms=1,
    p95_ms=2,
    p99_ms=50,
    max_ms=90,
    refused=17_000,
    admitted_p99_ms=60,
)


def test_goodput_is_what_was_answered_of_what_was_offered() -> None:
    """What the load generator could not send is not hidden, and neither is what failed."""
    figures = overload_figures(peak=PEAK, over=OVER)
    assert figures == pytest.approx(
        {
            "peak_rps": 2000,
            "peak_p99_ms": 3,
            "offered_rps": 4000,
            "goodput_rps": 1899.9,
            "goodput_share": 0.94995,
            "admitted_p99_ms": 60,
            "refused_rps": 1700,
            "unsent_rps": 400,
            "failed": 1,
        }
    )
    assert overload_grid(figures).rows == [
        ["2000", "4000", "1900", "0.95", "60", "1700", "400", "1"]
    ]
