"""Egret's own guardrails over texts, built from a policy as for a request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.domain.finding import Finding
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.subject import TextPart
from sidecar.policy.parse import parse_policies
from sidecar.policy.snapshot import MissingPolicy, build_snapshot

POLICY: Final = """
name: evaluation
guardrails:
{guardrails}
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one guardrail said of one text."""

    findings: tuple[Finding, ...]
    score: float


class OwnDetector:
    """One guardrail, by its fields in a policy; `seconds` is what all of its texts took."""

    def __init__(self, fields: str) -> None:
        """*fields* are as in `{type: pii, regions: [US]}`."""
        policy = POLICY.format(guardrails=f"  - {{name: only, action: flag, {fields}}}")
        effective = build_snapshot(parse_policies(policy)).effective(PolicyBinding("evaluation"))
        if isinstance(effective, MissingPolicy):
            raise TypeError(effective)
        self._scan = effective.local.scan
        self.seconds = 0.0

    def judge(self, text: str, *, role: str = "user") -> Judged:
        """Judge one text alone, as one part."""
        parts = (TextPart(text.encode("utf-8", "replace"), (0,), role),)
        started_at = time.perf_counter()
        outcome = self._scan(parts)[0]
        self.seconds += time.perf_counter() - started_at
        if outcome.failure is not None:
            raise TypeError(f"the guardrail could not judge: {outcome}")
        return Judged(outcome.findings, outcome.score or 0.0)


def microseconds_a_kilobyte(seconds: float, texts: Sequence[str]) -> float:
    """Return what a kilobyte of these texts took."""
    return seconds * 1e6 / (sum(len(text.encode("utf-8", "replace")) for text in texts) / 1024)
