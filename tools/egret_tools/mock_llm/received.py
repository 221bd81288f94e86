"""Requests that the provider received, kept for tests of the bytes that leave the gateway."""

from __future__ import annotations

import base64
from collections import deque
from dataclasses import dataclass
from typing import Final

MAX_KEPT: Final = 256
MAX_KEPT_BYTES: Final = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as it arrived: header names in lower case, order and repetition kept."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def as_json(self) -> dict[str, object]:
        """Return the form the debug endpoint shows; repeated headers are joined in `headers`."""
        joined: dict[str, str] = {}
        for name, value in self.headers:
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return {
            "method": self.method,
            "path": self.path,
            "headers": joined,
            "header_pairs": [list(pair) for pair in self.headers],
            "body_base64": base64.b64encode(self.body).decode("ascii"),
        }


class ReceivedRequests:
    """The last requests, bounded in number and in bytes; the count goes on."""

    def __init__(self, *, max_kept: int = MAX_KEPT, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._kept: deque[ReceivedRequest] = deque()
        self._kept_bytes = 0
        self._max_kept = max_kept
        self._max_kept_bytes = max_kept_bytes
        self.count = 0
        self.broken_off = 0
        """Streams that the other side did not take to their end."""

    def add(self, request: ReceivedRequest) -> None:
        """Keep *request*; the oldest ones make room, the newest always stays."""
        self.count += 1
        self._kept.append(request)
        self._kept_bytes += len(request.body)
        while len(self._kept) > 1 and (
            len(self._kept) > self._max_kept or self._kept_bytes > self._max_kept_bytes
        ):
            self._kept_bytes -= len(self._kept.popleft().body)

    def last(self) -> ReceivedRequest | None:
        """Return the newest request, or None when there was none."""
        return self._kept[-1] if self._kept else None

    def newest(self, limit: int) -> list[ReceivedRequest]:
        """Return at most *limit* requests, oldest first."""
        return list(self._kept)[-limit:] if limit > 0 else []

    def clear(self) -> None:
        """Forget everything, the count included."""
        self._kept.clear()
        self._kept_bytes = 0
        self.count = self.broken_off = 0
