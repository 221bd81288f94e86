"""What became of kept requests under a policy, and under the one before it: counts, no text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sidecar.cli.kept_requests import BadLine, KeptLine
from sidecar.cli.output import Row
from sidecar.domain.finding import Verdict
from sidecar.domain.policy import Guardrail
from sidecar.pipeline.replay import ReplayResult

_Acted = Counter[tuple[str, str, str]]
"""How often by guardrail, mode and verdict."""


@dataclass(frozen=True, slots=True)
class ChangedRequest:
    """A request that comes out another way; `guardrails` are those that act in one case alone."""

    number: int
    id: str | None
    before: str
    now: str
    guardrails: tuple[str, ...]


@dataclass(slots=True)
class ReplayTally:
    """Adds requests up; `bad` are lines that were none."""

    now: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    acted_now: _Acted = field(default_factory=Counter)
    acted_before: _Acted = field(default_factory=Counter)
    changed: list[ChangedRequest] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)

    def add(self, line: KeptLine, now: ReplayResult, before: ReplayResult | None) -> None:
        """Count one request."""
        self.now[_words(now)] += 1
        self.acted_now.update(map(_named, now.acted))
        if before is None:
            return
        self.before[_words(before)] += 1
        self.acted_before.update(map(_named, before.acted))
        if _words(now) != _words(before):
            differ = set(map(_named, now.acted)) ^ set(map(_named, before.acted))
            names = tuple(sorted({name for name, _, _ in differ}))
            self.changed.append(
                ChangedRequest(line.number, line.id, _words(before), _words(now), names)
            )

    def outcomes(self) -> list[Row]:
        """Return a row for each outcome."""
        return [
            {"outcome": one, "requests": self.now[one], "before": self.before[one]}
            for one in sorted(self.now | self.before)
        ]

    def verdicts(self) -> list[Row]:
        """Return a row for each verdict of each guardrail but to pass."""
        return [
            {
                "guardrail": name,
                "mode": mode,
                "verdict": verdict,
                "requests": self.acted_now[name, mode, verdict],
                "before": self.acted_before[name, mode, verdict],
            }
            for name, mode, verdict in sorted(self.acted_now | self.acted_before)
        ]

    def changes(self) -> list[Row]:
        """Return a row for each request that comes out another way."""
        return [
            {
                "line": one.number,
                "id": one.id,
                "before": one.before,
                "now": one.now,
                "guardrails": one.guardrails,
            }
            for one in self.changed
        ]


def _words(rehearsed: ReplayResult) -> str:
    error = "" if rehearsed.error is None else f" ({rehearsed.error.value})"
    return rehearsed.outcome.value + error


def _named(acted: tuple[Guardrail, Verdict]) -> tuple[str, str, str]:
    guardrail, verdict = acted
    return guardrail.name, guardrail.mode.value, verdict.value
