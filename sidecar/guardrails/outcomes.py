"""What a local guardrail makes of the texts of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidecar.domain.finding import Finding


@dataclass(frozen=True, slots=True)
class Found:
    """A guardrail's findings, of which no two overlap, in text order.

    `score` is how sure a guardrail is that gives one, from 0 to 1, also where it found nothing.
    """

    findings: tuple[Finding, ...]
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A guardrail that could not judge; `error_type` is an exception's class name."""

    error_type: str


Outcome = Found | Failed

NOTHING: Final = Found(())
