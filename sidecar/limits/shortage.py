"""Which limits had no room a moment ago, so that a flood at a limit is not one on Valkey.

No I/O and no clock: times are monotonic seconds, passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.domain.limits import Standing
from sidecar.limits.claims import Claim

REMEMBERED_SECONDS: Final = 0.05
"""Others can free units at any time, by giving back what they took; so not for long."""


@dataclass(frozen=True, slots=True)
class _Short:
    standing: Standing
    need: int
    seen_at: float
    until: float


class Shortages:
    """Of one worker. What was refused is refused again at once, until there may be room."""

    def __init__(self) -> None:
        self._known: dict[str, _Short] = {}

    def note(self, claim: Claim, standing: Standing, *, now: float) -> None:
        """The limit of *claim* has no room for it."""
        until = now + min(REMEMBERED_SECONDS, standing.reset_seconds)
        need = claim.cost + claim.reserve
        self._known[claim.limit.id] = _Short(standing, need, now, until)

    def of(self, claims: Sequence[Claim], *, now: float) -> Standing | None:
        """Return how the first limit stands that is known to have no room; None mostly."""
        if not self._known:
            return None
        for claim in claims:
            short = self._known.get(claim.limit.id)
            if short is None:
                continue
            is_of_this = short.standing.limit == claim.limit
            if is_of_this and now < short.until and claim.cost + claim.reserve >= short.need:
                standing, passed = short.standing, now - short.seen_at
                reset = max(0.0, standing.reset_seconds - passed)
                return Standing(standing.limit, standing.remaining, reset)
        return None

    def forget(self, *, now: float) -> None:
        """Forget what says nothing any more."""
        self._known = {name: one for name, one in self._known.items() if now < one.until}
