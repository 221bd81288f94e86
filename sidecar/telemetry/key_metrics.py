"""Metrics of the caches of keys and of the changes that workers hear of."""

from __future__ import annotations

import enum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.telemetry.names import MetricName

REVOCATION_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip
"""Up to the time to live, which is what remains if a notification is lost."""


class SharedOutcome(enum.Enum):
    """What became of one operation on the shared cache; the value is a metric label."""

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
    """One instance a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        operations = Counter(
            MetricName.SHARED_CACHE_OPERATIONS,
            "Operations on the shared cache of keys, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self._operations = {outcome: operations.labels(outcome.value) for outcome in SharedOutcome}
        self._oversized = Counter(
            MetricName.KEY_CACHE_OVERSIZED,
            "Key records that were too large to cache, once per look-up.",
            registry=registry,
        )
        self._revocations = Histogram(
            MetricName.REVOCATION_SECONDS,
            "Seconds from a change to keys in the database to its effect in one worker.",
            buckets=REVOCATION_BUCKETS,
            registry=registry,
        )
        self._entries = Gauge(
            MetricName.KEY_CACHE_ENTRIES,
            "Keys in the in-process caches of all live workers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._loads = Gauge(
            MetricName.KEY_LOADS,
            "Look-ups of keys in progress beyond the in-process cache, over all live workers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._heard = Gauge(
            MetricName.KEY_CHANGES_HEARD,
            "1 while subscribed to changes of keys, else 0; the lowest of all live workers.",
            multiprocess_mode="livemin",
            registry=registry,
        )

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

    def changes_are_heard(self, *, is_so: bool) -> None:
        """Show whether changes are heard of."""
        self._heard.set(is_so)
