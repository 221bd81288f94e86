"""What a guardrail found, where, and what came of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sidecar.domain.policy import Guardrail, Stage


@dataclass(frozen=True, slots=True)
class Finding:
    """A span of one text part. Never holds the text itself.

    `type` is upper snake case, for example `EMAIL`; it names the placeholder `[EMAIL_1]`.
    `part` indexes `Subject.parts`; `start` and `end` are byte offsets into its content.
    `place` says where in structured text, by names that the policy has and by numbers.
    """

    guardrail: str
    type: str
    part: int
    start: int
    end: int
    place: str | None = None


class Verdict(enum.Enum):
    """The closed set of outcomes of one guardrail; nothing else may look like a pass."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FLAG = "flag"
    REDACT = "redact"
    BLOCK = "block"
    ERROR_OPEN = "error_open"
    ERROR_CLOSED = "error_closed"
    TIMEOUT_OPEN = "timeout_open"
    TIMEOUT_CLOSED = "timeout_closed"
    SKIPPED = "skipped"


class RemoteEvent(enum.Enum):
    """What happened on the way to a remote check's outcome; the value is a metric label."""

    CACHE_HIT = "cache_hit"
    """Nobody was asked: the answer to equal content was still kept."""
    JOINED = "joined"
    """Equal content was being asked about, and its answer was waited for."""
    RETRY = "retry"
    HEDGE = "hedge"
    """Asked a second time, since no answer had come so far."""
    HEDGE_WON = "hedge_won"


@dataclass(frozen=True, slots=True)
class NotedEvent:
    """A remote event and when it was, on the clock of the inspection."""

    event: RemoteEvent
    at: float


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """One guardrail's outcome. In shadow mode the verdict is what enforce would have done.

    `started_at` is monotonic seconds on the clock of the inspection, `seconds` the duration.
    `error_type` is a class name or short code when the check failed, for spans and logs.
    `score` is how sure the guardrail is, from 0 to 1, where it tells; also where it passed.
    `stage` is the side that was judged, never both.
    """

    guardrail: Guardrail
    verdict: Verdict
    findings: tuple[Finding, ...]
    started_at: float
    seconds: float
    error_type: str | None = None
    score: float | None = None
    events: tuple[NotedEvent, ...] = ()
    stage: Stage = Stage.INPUT
