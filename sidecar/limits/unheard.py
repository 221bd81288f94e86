"""Takes whose answer nobody heard: made, or not, or still on their way. They are made void."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.limits.claims import Slots
from sidecar.limits.ports import Ask, Change

MAX_UNHEARD: Final = 10_000
"""Beyond, the oldest stay taken: rather too much than too little."""
MAX_VOIDED: Final = 256


@dataclass(frozen=True, slots=True)
class Unheard:
    """One take, made `at` or never; `name` is what the shared counts know it by."""

    scope: str
    name: str
    asks: tuple[Ask, ...]
    at: float

    def given_back(self, ahead: tuple[int, ...]) -> Iterator[Change]:
        """Yield what puts it right, where it was made and took *ahead* of its limits as well."""
        for ask, units in zip(self.asks, ahead, strict=True):
            claim = ask.claim
            if isinstance(claim.span, Slots):
                yield Change(claim.limit, 0, member=ask.member)
            else:
                back = -(ask.cost + units)
                start = claim.period_start
                yield Change(claim.limit, back, period_start=start, taken_at=self.at)


class UnheardTakes:
    """Of one worker, oldest first."""

    def __init__(self) -> None:
        self._takes: deque[Unheard] = deque(maxlen=MAX_UNHEARD)

    def __len__(self) -> int:
        return len(self._takes)

    def add(self, take: Unheard) -> None:
        """Keep *take*."""
        self._takes.append(take)

    def some(self) -> tuple[Unheard, ...]:
        """Return as many of one scope as are made void in one call."""
        if not self._takes:
            return ()
        scope = self._takes[0].scope
        return tuple(take for take in self._takes if take.scope == scope)[:MAX_VOIDED]

    def remove(self, voided: tuple[Unheard, ...]) -> None:
        """Nothing has to be done about these any more."""
        names = {take.name for take in voided}
        left = (take for take in self._takes if take.name not in names)
        self._takes = deque(left, maxlen=MAX_UNHEARD)
