"""Limits the requests that a worker judges at once, and the bytes of bodies it keeps.

Beyond a bound a request is refused at once: requests that queue in a busy worker delay all others,
until budgets expire and finished work is discarded.
"""

from __future__ import annotations


class OverloadGuard:
    """Counts requests under judgement, and the bytes of bodies that are kept until a verdict.

    The bytes are those received: while a body is judged, it is in memory once or twice more.
    """

    __slots__ = ("_max_exchanges", "_max_held_bytes", "exchanges", "held_bytes")

    def __init__(self, *, max_exchanges: int, max_held_bytes: int) -> None:
        self._max_exchanges = max_exchanges
        self._max_held_bytes = max_held_bytes
        self.exchanges = 0
        self.held_bytes = 0

    def begin(self) -> bool:
        """Count a request that is to be judged; return False if there is no room for it."""
        if self.exchanges >= self._max_exchanges:
            return False
        self.exchanges += 1
        return True

    def end(self) -> None:
        """Stop counting a request: it has its answer, or its client has left."""
        self.exchanges -= 1

    def hold(self, size: int) -> bool:
        """Count *size* bytes more; return False, and count nothing, if there is no room."""
        if size and self.held_bytes + size > self._max_held_bytes:
            return False
        self.held_bytes += size
        return True

    def release(self, size: int) -> None:
        """Stop counting *size* bytes."""
        self.held_bytes -= size
