"""What a worker tells when a budget runs short."""

from __future__ import annotations

import io

import orjson
import pytest
from prometheus_client import CollectorRegistry

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.limiter import Limiter
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.shared_counters import SharedCounts
from sidecar.limits.store import Adjustment
from sidecar.telemetry.key_metrics import LimitMetrics
from sidecar.telemetry.logs import configure_logs
from sidecar.usage.prices import PriceList
from sidecar.worker.limits import ThresholdReports, WorkerLimits
from sidecar.worker.usage import PriceCache
from tests.support.counted_limits import CountedLimits, Fault, Server
from tests.support.limits import CLOCKS, Records, limit


def test_a_threshold_is_one_line_of_the_log_without_an_amount() -> None:
    """Whose budget it is, by id; and a count."""
    written = io.BytesIO()
    configure_logs("info", written)
    registry = CollectorRegistry()
    limit = Limit(
        id="team_1/cost/month/0a1b2c3d", level=Level.TEAM, measure=Measure.COST,
        window=Window.MONTH, amount=250_000_000,
    )  # fmt: skip
    ThresholdReports(LimitMetrics(registry)).threshold_passed(limit, 80)

    line = orjson.loads(written.getvalue())
    del line["timestamp"]
    assert line == {
        "event": "budget.threshold",
        "level": "warning",
        "threshold": 80,
        "owner": "team",
        "owner_id": "team_1",
        "window": "month",
        "limit_id": "team_1/cost/month/0a1b2c3d",
    }
    assert (
        registry.get_sample_value(
            "egret_budget_thresholds_passed_total", {"level": "team", "threshold": "80"}
        )
        == 1
    )


@pytest.mark.parametrize(
    ("fault", "logged"),
    [(Fault.NONE, []), (Fault.LOST, [("limits.adjustments_lost", 1)])],
    ids=["there", "away"],
)
async def test_a_worker_that_stops_says_which_adjustments_are_lost(
    monkeypatch: pytest.MonkeyPatch, fault: Fault, logged: list[tuple[str, int]]
) -> None:
    """They would be missed in a budget that ends early, and nowhere else."""
    monkeypatch.setattr("sidecar.limits.limiter.AWAY_SECONDS", 0.0)
    written = io.BytesIO()
    configure_logs("info", written)
    store = CountedLimits(Server(CLOCKS.wall), lambda: fault)
    shared = SharedCounts(store, worker=SharingWorker("w", 1), calls=1, clock=CLOCKS.monotonic)
    limiter = Limiter(shared, Records(), clocks=CLOCKS)
    limiter.settle("org_1", [Adjustment(limit(), -1)])

    async def prices() -> PriceList:
        return PriceList()

    await WorkerLimits(
        limiter, shared.worker, PriceCache(prices), LimitMetrics(CollectorRegistry())
    ).aclose()
    lines = [orjson.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["event"], line["count"]) for line in lines] == logged
