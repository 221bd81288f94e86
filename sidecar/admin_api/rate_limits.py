"""Token buckets in memory, one for each person, token or address; each process has its own."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_BUCKETS: Final = 10_000
"""The longest unused are forgotten first: they are the fullest."""


class RateLimiter:
    """Allows `per_second` requests of one name on average, and `burst` at once."""

    def __init__(self, *, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, name: str, *, now: float) -> float:
        """Take one request of *name*; 0 if it may go on, else the seconds until it may."""
        level, at = self._buckets.pop(name, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._buckets[name] = (level if wait else level - 1, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return wait
