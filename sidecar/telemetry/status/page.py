"""`/status` on the metrics port: a page without outside parts, its script, its style, its data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from prometheus_client.registry import Collector

from sidecar.telemetry.status.history import History

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
