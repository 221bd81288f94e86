"""Whether the database answers now, as far as the key cache has seen."""

from __future__ import annotations

from collections.abc import Callable


class Outage:
    """While the database is away, one request in `retry_seconds` asks for it; the rest do not.

    Times are seconds of one monotonic clock. `jitter` gives numbers from 0 to 1, so that workers
    do not ask in step.
    """

    def __init__(self, *, retry_seconds: float, jitter: Callable[[], float]) -> None:
        self._retry_seconds = retry_seconds
        self._jitter = jitter
        self._next_probe_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether the last that was heard of the database is that it does not answer."""
        return self._next_probe_at is not None

    def began(self, *, now: float) -> None:
        """The database did not answer; while it is known to be away, this says nothing new."""
        if self._next_probe_at is None:
            self._plan(now)

    def ended(self) -> None:
        """The database answered."""
        self._next_probe_at = None

    def may_probe(self, *, now: float) -> bool:
        """Tell whether to ask the database now; True for one caller, then not for a while."""
        if self._next_probe_at is None:
            return True
        if now < self._next_probe_at:
            return False
        self._plan(now)
        return True

    def _plan(self, now: float) -> None:
        self._next_probe_at = now + self._retry_seconds * (0.5 + 0.5 * self._jitter())
