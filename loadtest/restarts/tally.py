"""What came of the rounds in which a part was killed or replaced, and what must not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.results import Grid


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of all rounds of one kind.

    `had_verdict` are requests that reached the provider and were not answered; `sent_later` those
    that were sent after the blow and failed.
    """

    what: str
    rounds: int
    answered: int
    failed: int
    had_verdict: int
    sent_later: int
    may_fail: bool
    kinds: tuple[str, ...] = ()

    @property
    def sent(self) -> int:
        """All of them."""
        return self.answered + self.failed

    @property
    def faults(self) -> tuple[str, ...]:
        """What must not be, in words."""
        found = []
        if self.had_verdict:
            found.append(f"{self.what}: {self.had_verdict} requests failed after their verdict")
        if self.sent_later:
            found.append(f"{self.what}: {self.sent_later} failed that were sent afterwards")
        if self.failed and not self.may_fail:
            found.append(f"{self.what}: {self.failed} requests failed")
        return tuple(found)


def tally_grid(tallies: Sequence[Tally], *, engine: str) -> Grid:
    """Return a row for each kind of round."""
    columns = ("each round", "rounds", "answered", "failed", "after a verdict", "sent later", "as")
    rows = [
        [
            one.what,
            *(f"{n:,}" for n in (one.rounds, one.answered, one.failed)),
            *(f"{n:,}" for n in (one.had_verdict, one.sent_later)),
            ", ".join(one.kinds),
        ]
        for one in tallies
    ]
    return Grid(f"What requests lost on {engine}", columns, rows)


def tally_figures(tallies: Sequence[Tally]) -> dict[str, float]:
    """Return them by kind of round and count."""
    return {
        f"{one.what.replace(' ', '_')}.{name}": float(value)
        for one in tallies
        for name, value in (
            ("rounds", one.rounds), ("answered", one.answered), ("failed", one.failed),
            ("had_verdict", one.had_verdict), ("sent_later", one.sent_later),
        )
    }  # fmt: skip
