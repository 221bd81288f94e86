"""The status page: five minutes of traffic as JSON, and the files of the page that draws it."""

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
"""Metrics are collected no more often than this, however many browsers ask."""
MAX_POINTS: Final = 150


class History:
    """Traffic between two requests for it, one point each; nothing runs between requests."""

    def __init__(self, metrics: Collector, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._run = secrets.token_hex(4)
        self._snapshot: MetricsSnapshot | None = None
        self._first_at = 0.0
        self._last = 0
        self._points: deque[tuple[int, float, TrafficStats]] = deque(maxlen=MAX_POINTS)

    def after(self, run: str, number: int) -> bytes:
        """Return the points after that of *number* as JSON, with one more if it is time for it.

        Return all of them if *run* is another one: numbers begin anew with each.
        """
        if run != self._run:
            number = 0
        with self._lock:
            now, before = self._clock(), self._snapshot
            if before is None or now - before.at >= EVERY_SECONDS:
                self._snapshot = snapshot_of(self._metrics.collect(), at=now)
                if before is None:
                    self._first_at = now
                else:
                    self._last += 1
                    traffic = traffic_stats(before, self._snapshot)
                    self._points.append((self._last, now - self._first_at, traffic))
            points = [
                {"number": one, "at": at, **dataclasses.asdict(shown)}
                for one, at, shown in self._points
                if one > number
            ]
        return orjson.dumps({"run": self._run, "every": EVERY_SECONDS, "points": points})


_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]{1,5})?")


def is_known(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Return whether a request with these Host headers may be answered.

    Protects from DNS rebinding: a page of another site can point a name of its own here, but no
    IP address. A request without Host is not from a browser.
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
"""Nothing inline, nothing from another origin, in no frame, readable by no other origin."""


@dataclass(frozen=True, slots=True)
class Content:
    """The body of one answer."""

    body: bytes
    content_type: str


class StatusPage:
    """Answers requests below `/status`."""

    def __init__(self, metrics: Collector) -> None:
        folder = resources.files(__package__)
        self._history = History(metrics)
        self._files = {
            path: Content((folder / name).read_bytes(), content_type)
            for path, (name, content_type) in _FILES.items()
        }

    def content(self, path: str, query: str) -> Content | None:
        """Return the content at *path*, None if there is none."""
        if path != DATA_PATH:
            return self._files.get(path)
        after = _AFTER.fullmatch(query)
        seen = ("", 0) if after is None else (after[1], int(after[2]))
        return Content(self._history.after(*seen), "application/json")
