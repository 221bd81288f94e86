"""What a worker tells when a budget runs short."""

from __future__ import annotations

import io

import orjson
from prometheus_client import CollectorRegistry

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.telemetry.key_metrics import LimitMetrics
from sidecar.telemetry.logs import configure_logs
from sidecar.worker.limits import ThresholdReports


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
