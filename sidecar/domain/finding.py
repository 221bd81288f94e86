"""Findings of guardrails, the decision they lead to, and placeholders for values."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, assert_never

import msgspec

from sidecar.domain.errors import ClientError
from sidecar.domain.policy import Action, Guardrail, Mode, OnError, Stage
from sidecar.domain.subject import TextPart


class Finding(msgspec.Struct, frozen=True, gc=False):
    """A span of one text part. Never holds the text itself.

    `type` is upper snake case, for example `EMAIL`; it names the placeholder `[EMAIL_1]`.
    `part` indexes `Subject.parts`; `start` and `end` are byte offsets into its content.
    `place` is a path in structured text, of names in the policy and of numbers. `role` is
    set if the part belongs to a known message, which the subject leaves out: the part's role.
    """

    guardrail: str
    type: str
    part: int
    start: int
    end: int
    place: str | None = None
    role: str | None = None


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
    """An event on the way to a remote check's outcome; the value is a metric label."""

    CACHE_HIT = "cache_hit"
    """No request was sent: the answer to equal content was cached."""
    JOINED = "joined"
    """A check of equal content was under way, and its answer was awaited."""
    RETRY = "retry"
    HEDGE = "hedge"
    """Sent a second time, since no answer had come so far."""
    HEDGE_WON = "hedge_won"


class TooMuchHiddenTextError(Exception):
    """More texts are hidden in encodings, escapes or spaced letters than are decoded."""


class FailureKind(enum.Enum):
    """Why a guardrail could not judge, as far as its verdict and the refusal depend on it."""

    ERROR = "error"
    TIMEOUT = "timeout"
    HIDDEN_TEXT = "hidden_text"
    """The sender hides more than is decoded: `on_error` does not let that pass."""
    CONTENT = "content"
    """The sender can cause it by the text alone: `on_error` does not let that pass."""


class Failure(NamedTuple):
    """The failure of a check; `error_type` names its cause in metrics, logs and spans."""

    kind: FailureKind
    error_type: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return the failure of a check that raised *error*."""
        is_hidden = isinstance(error, TooMuchHiddenTextError)
        kind = FailureKind.HIDDEN_TEXT if is_hidden else FailureKind.ERROR
        return cls(kind, type(error).__name__)

    def verdict(self, guardrail: Guardrail) -> Verdict:
        """Return the verdict of a guardrail whose check failed."""
        is_open = guardrail.on_error is OnError.ALLOW
        match self.kind:
            case FailureKind.ERROR:
                return Verdict.ERROR_OPEN if is_open else Verdict.ERROR_CLOSED
            case FailureKind.TIMEOUT:
                return Verdict.TIMEOUT_OPEN if is_open else Verdict.TIMEOUT_CLOSED
            case FailureKind.HIDDEN_TEXT | FailureKind.CONTENT:
                return Verdict.ERROR_CLOSED
            case _:
                assert_never(self.kind)


@dataclass(frozen=True, slots=True)
class NotedEvent:
    """A remote event and when it was, on the clock of the inspection."""

    event: RemoteEvent
    at: float


LOCAL_VERDICTS: Final = {
    Action.BLOCK: Verdict.BLOCK,
    Action.REDACT: Verdict.REDACT,
    Action.FLAG: Verdict.FLAG,
}
"""The verdict of a guardrail that found something by itself; a remote check may return less."""


class GuardrailResult(NamedTuple):
    """One guardrail's outcome. In shadow mode the verdict is what enforce would have done.

    No two of `findings` overlap, and they are in text order.
    `started_at` is monotonic seconds on the clock of the inspection, `seconds` the duration; None
    for a guardrail of the local pass, which takes the times of the pass.
    `failure` is set if the check failed.
    `score` is the guardrail's certainty from 0 to 1, if it gives one; also if it passed.
    `stage` is the side that was checked, never both.
    `part_values` has what parts, by index, add to what is known without them: a score above that
    of most texts, or the difference of a count to the number of bytes. A search that *gave_up*
    reached a bound of work or findings: what it had not searched counts as found.
    A tuple, which is built faster than a frozen dataclass.
    """

    guardrail: Guardrail
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    started_at: float | None = None
    seconds: float | None = None
    failure: Failure | None = None
    score: float | None = None
    events: tuple[NotedEvent, ...] = ()
    stage: Stage = Stage.INPUT
    part_values: tuple[tuple[int, float], ...] = ()
    gave_up: bool = False

    @classmethod
    def failed(cls, guardrail: Guardrail, error: Exception) -> GuardrailResult:
        """Return the result of a check that raised *error*."""
        failure = Failure.of(error)
        return cls(guardrail, failure.verdict(guardrail), failure=failure)

    @property
    def blocks(self) -> bool:
        """Return whether its findings, if there are any, refuse the request."""
        guardrail = self.guardrail
        return guardrail.action is Action.BLOCK and guardrail.mode is Mode.ENFORCE


Results = tuple[GuardrailResult, ...]
"""One a guardrail, in the policy's order."""


ANSWER_ROLE: Final = "answer"
"""Stands for the role of all text of an answer: `assistant` is a message of a request."""


class FindingCount(msgspec.Struct, frozen=True, gc=False):
    """The number of findings of one type that a guardrail made in texts of one role."""

    guardrail: Guardrail
    verdict: Verdict
    type: str
    role: str
    findings: int


def count_findings(results: Results, parts: Sequence[TextPart]) -> tuple[FindingCount, ...]:
    """Count the findings in *results* by guardrail, type and role; *parts* are the request's."""
    counts: dict[tuple[int, str, str], int] = {}
    for number, result in enumerate(results):
        for one in result.findings:
            role = ANSWER_ROLE
            if result.stage is not Stage.OUTPUT:
                role = one.role or parts[one.part].role
            key = number, one.type, role
            counts[key] = counts.get(key, 0) + 1
    return tuple(
        [
            FindingCount(results[number].guardrail, results[number].verdict, type_, role, count)
            for (number, type_, role), count in counts.items()
        ]
    )


@dataclass(frozen=True, slots=True)
class Allow:
    """Forward the request as it is."""


@dataclass(frozen=True, slots=True)
class Redact:
    """Forward the request with these spans replaced."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    """Answer the client from here."""

    error: ClientError


Decision = Allow | Redact | Deny


HASH_DIGITS: Final = 16
"""64 bits in hexadecimal: among a billion values two are alike with a chance of 3 %."""

MAX_PLACEHOLDER_BYTES: Final = 1 + 40 + len("_h_") + HASH_DIGITS + 1
"""A type has 40 characters at most; a card number with its separators is shorter."""

PLACEHOLDER_FORMS: Final = (
    (
        b"[",
        re.compile(rb"\[[A-Z][A-Z0-9_]{0,39}_(?:[1-9][0-9]{0,8}|h_[0-9a-f]{%d})\]" % HASH_DIGITS),
    ),
    (b"0", re.compile(rb"0(?<![0-9]0)(?<![0-9][ -]0)(?:[ -]?[0-9]){11,18}+(?![ -]?[0-9])")),
)
"""Every form of placeholder with its first byte: `[EMAIL_1]`, `[EMAIL_h_…]`, or a whole run of
digits as long as a card's number that begins with 0. Other numbers are passed over: a text may
have a million. One by one, forms are found twenty times as fast as in one expression."""
PLACEHOLDER: Final = re.compile(b"|".join([form.pattern for _, form in PLACEHOLDER_FORMS]))

_UNFINISHED: Final = re.compile(rb"(?:\[[A-Za-z0-9_]*+|[0-9][0-9 -]*+)\Z")


@dataclass(frozen=True, slots=True)
class Restoration:
    """Placeholder → value, both as UTF-8. `repr` shows neither."""

    originals: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes], repr=False)

    def restore(self, text: bytes) -> bytes:
        """Return *text* with every placeholder turned back.

        In one pass: an inserted value is not searched again, so that one that reads like a
        placeholder cannot bring in another value.
        """
        return PLACEHOLDER.sub(
            lambda found: self.originals.get(found.group(), found.group()), text
        )


def unfinished_from(text: bytes) -> int:
    """Return where the end of *text* could still become a placeholder; its length if nowhere.

    The text before can be restored and sent, the rest waits for the next bytes; never more
    than `MAX_PLACEHOLDER_BYTES`.
    """
    start = max(len(text) - MAX_PLACEHOLDER_BYTES, 0)
    found = _UNFINISHED.search(text, start)
    return len(text) if found is None else found.start()


NOTHING_REDACTED: Final = Restoration()
