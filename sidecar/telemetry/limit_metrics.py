"""Metrics of limits: what was decided, and whether the shared counts are there."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar.domain.limits import Level, Measure, Window
from sidecar.telemetry.names import MetricName


class LimitMetrics:
    """One instance a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            MetricName.LIMIT_REFUSALS,
            "Requests without room in a limit, by measure and level.",
            ("measure", "level"),
            registry=registry,
        )
        for measure in Measure:  # an alert on a rate needs the zero before the first refusal
            for level in Level:
                self._refused.labels(measure.value, level.value)
        decisions = Counter(
            MetricName.LIMIT_DECISIONS,
            "Requests checked against limits, by decision and by counters used.",
            ("decision", "counts"),
            registry=registry,
        )
        self._decisions = {
            (is_granted, is_local): decisions.labels(
                "granted" if is_granted else "refused", "local" if is_local else "shared"
            )
            for is_granted in (True, False)
            for is_local in (True, False)
        }
        self._thresholds = Counter(
            MetricName.BUDGET_THRESHOLDS,
            "Budget thresholds that were passed, by percentage and level.",
            ("level", "threshold"),
            registry=registry,
        )
        self._remaining = Gauge(
            MetricName.BUDGET_REMAINING_RATIO,
            "Remaining share of the budget that has least left.",
            ("level", "window"),
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._local = Gauge(
            MetricName.LIMITS_LOCAL,
            "Workers that use their own share of limits: the shared counters do not answer.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._waiting = Gauge(
            MetricName.LIMIT_CORRECTIONS_WAITING,
            "Corrections of limits that wait for the shared counters.",
            multiprocess_mode="livesum",
            registry=registry,
        )

    def granted(self, *, is_local: bool) -> None:
        """Count a request with room in all of its limits."""
        self._decisions[True, is_local].inc()

    def refused(self, measure: Measure, level: Level, *, is_local: bool) -> None:
        """Count a request without room."""
        self._decisions[False, is_local].inc()
        self._refused.labels(measure.value, level.value).inc()

    def threshold_passed(self, level: Level, threshold: int) -> None:
        """Count a threshold that was passed."""
        self._thresholds.labels(level.value, str(threshold)).inc()

    def budget_left(self, level: Level, window: Window, ratio: float) -> None:
        """Show what is left of the budget that has least left."""
        self._remaining.labels(level.value, window.value).set(ratio)

    def stand(self, *, is_local: bool, waiting: int) -> None:
        """Show how the limits of this worker stand."""
        self._local.set(1 if is_local else 0)
        self._waiting.set(waiting)
