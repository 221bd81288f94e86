"""The status page: history of metrics, host names, and the page itself."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import orjson
from prometheus_client.registry import Collector

from sidecar.telemetry.traffic_stats import (
    MetricsSnapshot,
    TrafficStats,
    snapshot_of,
    traffic_stats,
)

EVERY_SECONDS: Final = 2.0
"""However many look, metrics are collected no more often than this for them."""
MAX_POINTS: Final = 150


class History:
    """Traffic between two looks at the metrics, one point each; nothing is done between looks."""

    def __init__(self, metrics: Collector, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._run = secrets.token_hex(4)
        self._page: MetricsSnapshot | None = None
        self._first_at = 0.0
        self._last = 0
        self._points: deque[tuple[int, float, TrafficStats]] = deque(maxlen=MAX_POINTS)

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
        self._page = snapshot_of(self._metrics.collect(), at=now)
        if before is None:
            self._first_at = now
            return
        self._last += 1
        self._points.append((self._last, now - self._first_at, traffic_stats(before, self._page)))


_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]{1,5})?")


def is_known(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Return whether a request with these Host headers may be answered.

    An address is no name and cannot be pointed anywhere; without Host no browser has asked.
    """
    if not hosts:
        return True
    match = _HOST.fullmatch(hosts[0])
    if match is None or len(hosts) > 1:
        return False
    name = match[1].lower().removesuffix(".")
    return name == "localhost" or name in names or is_address(name.strip("[]"))


def is_address(text: str) -> bool:
    """Return whether *text* is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


PAGE_PATH: Final = "/status"
DATA_PATH: Final = "/status.json"
_FILES: Final = {
    PAGE_PATH: ("page.html", "text/html; charset=utf-8"),
    "/status.js": ("page.js", "text/javascript; charset=utf-8"),
    "/status.css": ("page.css", "text/css; charset=utf-8"),
}
_AFTER: Final = re.compile(r"after=([0-9a-f]{8})-([0-9]{1,9})")

HEADERS: Final = (
    (
        "content-security-policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
            " require-trusted-types-for 'script'"
        ),
    ),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
)
"""Nothing inline, nothing from elsewhere, in no frame, and for no page of another origin."""


@dataclass(frozen=True, slots=True)
class Part:
    """The body of one answer."""

    body: bytes
    content_type: str


class StatusPage:
    """What is answered below `/status`."""

    def __init__(self, metrics: Collector) -> None:
        folder = resources.files(__package__)
        self._history = History(metrics)
        self._files = {
            path: Part((folder / name).read_bytes(), content_type)
            for path, (name, content_type) in _FILES.items()
        }

    def part(self, path: str, query: str) -> Part | None:
        """Return what is at *path*, None where there is nothing."""
        if path != DATA_PATH:
            return self._files.get(path)
        after = _AFTER.fullmatch(query)
        seen = ("", 0) if after is None else (after[1], int(after[2]))
        return Part(self._history.after(*seen), "application/json")
