"""What happened in the last minutes, noted while somebody looks."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import orjson
from prometheus_client.registry import Collector

from sidecar.telemetry.figures import Figures, Page, figures, page_of

EVERY_SECONDS: Final = 2.0
"""However many look, metrics are collected no more often than this for them."""
MAX_POINTS: Final = 150


class History:
    """Figures between two looks at the metrics, one point each; nothing is done between looks."""

    def __init__(self, metrics: Collector, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._run = secrets.token_hex(4)
        self._page: Page | None = None
        self._first_at = 0.0
        self._last = 0
        self._points: deque[tuple[int, float, Figures]] = deque(maxlen=MAX_POINTS)

    def after(self, run: str, number: int) -> bytes:
        """Return the points after that of *number* as JSON, with one more if it is time for it.

        All of them to whoever saw another run: numbers begin anew with each.
        """
        if run != self._run:
            number = 0
        with self._lock:
            self._look()
            points = [
                {"number": one, "at": at, **dataclasses.asdict(shown)}
                for one, at, shown in self._points
                if one > number
            ]
        return orjson.dumps({"run": self._run, "every": EVERY_SECONDS, "points": points})

    def _look(self) -> None:
        now = self._clock()
        before = self._page
        if before is not None and now - before.at < EVERY_SECONDS:
            return
        self._page = page_of(self._metrics.collect(), at=now)
        if before is None:
            self._first_at = now
            return
        self._last += 1
        self._points.append((self._last, now - self._first_at, figures(before, self._page)))
