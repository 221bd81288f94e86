"""What a worker has under way at once, and how much of that it may have.

Beyond a bound a request is refused at once: what waits in a worker that has no time for it only
makes everybody wait, until budgets pass and work that was done is thrown away.
"""

from __future__ import annotations


class Load:
    """Counts requests under judgement, and the bytes of bodies that are kept until a verdict.

    The bytes are those that came: while a body is judged, it is in memory once or twice more.
    """

    __slots__ = ("_max_exchanges", "_max_held_bytes", "exchanges", "held_bytes")

    def __init__(self, *, max_exchanges: int, max_held_bytes: int) -> None:
        self._max_exchanges = max_exchanges
        self._max_held_bytes = max_held_bytes
        self.exchanges = 0
        self.held_bytes = 0

    def begin(self) -> bool:
        """Count a request that is to be judged; False where there is no room for it."""
        if self.exchanges >= self._max_exchanges:
            return False
        self.exchanges += 1
        return True

    def may_hold(self, size: int) -> bool:
        """Tell whether so many bytes more may be kept."""
        return self.held_bytes + size <= self._max_held_bytes

    def end(self) -> None:
        """A request that was counted has its answer, or nobody waits for it any more."""
        self.exchanges -= 1

    def hold(self, change: int) -> None:
        """So many bytes more are kept; fewer where it is below 0."""
        self.held_bytes += change
