"""Metrics of keys, their caches, and limits."""

from __future__ import annotations

import enum
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.domain.limits import Level, Measure, Window
from sidecar.telemetry.mmap_metrics import counting
from sidecar.telemetry.names import MetricName

REVOCATION_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip
"""Up to the time to live, which ends a key if a notification is lost."""


class SharedOutcome(enum.Enum):
    """The outcome of one operation on the shared cache; the value is a metric label."""

    HIT = "hit"
    MISS = "miss"
    WRITTEN = "written"
    DISCARDED = "discarded"
    UNAVAILABLE = "unavailable"
    """No answer within the budget."""
    SKIPPED = "skipped"
    """Not tried, since it has just been unavailable."""
    NEWER = "newer"
    """Written by a later version of Egret."""
    UNAUTHENTIC = "unauthentic"
    """Cut short, altered, moved from another key, or written with another secret."""
    UNREADABLE = "unreadable"
    """Authentic, and yet no record."""


class KeyMetrics:
    """Metrics of key caches and key changes. One instance a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        sum_gauge = partial(Gauge, multiprocess_mode="livesum", registry=registry)
        operations = counter(
            MetricName.SHARED_CACHE_OPERATIONS,
            "Operations on the shared cache of keys, by outcome.",
            ("outcome",),
        )
        self._operations = {outcome: operations.labels(outcome.value) for outcome in SharedOutcome}
        self._oversized = counter(
            MetricName.KEY_CACHE_OVERSIZED,
            "Key records that were too large to cache, once per look-up.",
        )
        self._revocations = Histogram(
            MetricName.REVOCATION_SECONDS,
            "Seconds from a change to keys in the database to its effect in one worker.",
            buckets=REVOCATION_BUCKETS,
            registry=registry,
        )
        self._entries = sum_gauge(
            MetricName.KEY_CACHE_ENTRIES, "Keys in the in-process caches of all live workers."
        )
        self._loads = sum_gauge(
            MetricName.KEY_LOADS,
            "Look-ups of keys in progress beyond the in-process cache, over all live workers.",
        )
        self._connected = [
            Gauge(
                name,
                "1 while subscribed to changes of keys, else 0; the lowest of all live workers.",
                multiprocess_mode="livemin",
                registry=registry,
            )
            for name in (MetricName.KEY_NOTIFICATIONS_CONNECTED, MetricName.KEY_CHANGES_HEARD)
        ]

    def shared_cache(self, outcome: SharedOutcome) -> None:
        """Count an operation on the shared cache."""
        self._operations[outcome].inc()

    def cache_holds(self, entries: int, *, loads: int) -> None:
        """Show how many keys this worker's cache holds, and how many are being looked up."""
        self._entries.set(entries)
        self._loads.set(loads)

    def oversized(self) -> None:
        """Count a record that was too large to keep."""
        self._oversized.inc()

    def change_took(self, seconds: float) -> None:
        """Count a change that took effect *seconds* after it was made."""
        self._revocations.observe(seconds)

    def key_notifications_connected(self, *, is_so: bool) -> None:
        """Show whether this worker is subscribed to changes of keys."""
        for gauge in self._connected:
            gauge.set(is_so)


class LimitMetrics:
    """Metrics of limits and budgets. One instance a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        sum_gauge = partial(Gauge, multiprocess_mode="livesum", registry=registry)
        self._refused = counter(
            MetricName.LIMIT_REFUSALS,
            "Requests without room in a limit, by measure and level.",
            ("measure", "level"),
        )
        for measure in Measure:  # an alert on a rate needs the zero before the first refusal
            for level in Level:
                self._refused.labels(measure.value, level.value)
        decisions = counter(
            MetricName.LIMIT_DECISIONS,
            "Requests checked against limits, by decision and by counters used.",
            ("decision", "counts"),
        )
        self._decisions = {
            (is_granted, is_local): counting(
                decisions.labels(
                    "granted" if is_granted else "refused", "local" if is_local else "shared"
                )
            )
            for is_granted in (True, False)
            for is_local in (True, False)
        }
        self._thresholds = counter(
            MetricName.BUDGET_THRESHOLDS,
            "Budget thresholds that were passed, by percentage and level.",
            ("level", "threshold"),
        )
        self._remaining = Gauge(
            MetricName.BUDGET_REMAINING_RATIO,
            "Remaining share of the budget that has least left.",
            ("level", "window"),
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._local = sum_gauge(
            MetricName.LIMITS_LOCAL,
            "Workers that use their own share of limits: the shared counters do not answer.",
        )
        self._waiting = sum_gauge(
            MetricName.LIMIT_CORRECTIONS_WAITING,
            "Corrections of limits that wait for the shared counters.",
        )

    def granted(self, *, is_local: bool) -> None:
        """Count a request with room in all of its limits."""
        self._decisions[True, is_local]()

    def refused(self, measure: Measure, level: Level, *, is_local: bool) -> None:
        """Count a request without room."""
        self._decisions[False, is_local]()
        self._refused.labels(measure.value, level.value).inc()

    def threshold_passed(self, level: Level, threshold: int) -> None:
        """Count a threshold that was passed."""
        self._thresholds.labels(level.value, str(threshold)).inc()

    def budget_left(self, level: Level, window: Window, ratio: float) -> None:
        """Show the share that is left of the budget that has least left."""
        self._remaining.labels(level.value, window.value).set(ratio)

    def stand(self, *, is_local: bool, waiting: int) -> None:
        """Show whether this worker uses its own share, and how many corrections wait."""
        self._local.set(1 if is_local else 0)
        self._waiting.set(waiting)
