"""Scans a streamed answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidecar.domain.finding import (
    PLACEHOLDER,
    Failed,
    Finding,
    Found,
    GuardrailResult,
    Restoration,
    Verdict,
    unfinished_from,
)
from sidecar.domain.policy import Action, Guardrail, Mode, OnError, Stage, StreamMode
from sidecar.domain.subject import TextPart
from sidecar.guardrails.cooperative import Cooperative, run_sync
from sidecar.guardrails.matching.spans import disjoint
from sidecar.guardrails.registry import rank_of
from sidecar.guardrails.streaming.response_policy import AnswerPolicy
from sidecar.guardrails.streaming.window import MAX_HELD_BYTES, Edit, Window, WindowView
from sidecar.jsontext.tokens import Token

MAX_REPORTED: Final = 100
"""Findings of one guardrail that a report lists; an answer may hold any number."""

ROLE: Final = "assistant"


@dataclass(slots=True)
class _Tally:
    """What one guardrail has come to over a stream."""

    verdict: Verdict = Verdict.PASS
    findings: list[Finding] = field(default_factory=list[Finding])
    error_type: str | None = None


@dataclass(frozen=True, slots=True)
class PendingWindow:
    """A window with something new. `is_final`: nothing follows. `leaves`: not to be held back."""

    window: Window
    is_final: bool
    leaves: bool


@dataclass(frozen=True, slots=True)
class WindowFinding:
    """What is to be replaced: a finding whose offsets are those of its window's text.

    `is_bare` tells that it is a number without quotes in JSON text.
    """

    window: Window
    finding: Finding
    value: bytes
    is_bare: bool


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What came of one look: spans to replace, and the first guardrail that refuses the answer.

    `is_too_long` tells that something was found that is longer than a window.
    """

    redact: tuple[WindowFinding, ...] = ()
    refused_by: GuardrailResult | None = None
    is_too_long: bool = False


class StreamScan:
    """The local guardrails of one answer, over all its windows."""

    def __init__(
        self,
        policy: AnswerPolicy,
        *,
        clock: Callable[[], float],
        restoration: Restoration,
        is_streamed: bool,
    ) -> None:
        """Begin. What is a placeholder of the request is no finding, and is turned back."""
        self._policy = policy
        self._is_streamed = is_streamed
        self._clock = clock
        self._restoration = restoration
        self._tallies = tuple(_Tally() for _ in policy.local.guardrails)
        self._started_at = clock()
        self.seconds = 0.0

    def judge(self, windows: Sequence[PendingWindow]) -> ScanResult:
        """Look at *windows*, settle what is final in each, and say what must be done."""
        return run_sync(self.steps(windows))[0]

    def steps(self, windows: Sequence[PendingWindow]) -> Cooperative[tuple[ScanResult]]:
        """Do what `judge` does, in slices of a millisecond or two."""
        began = self._clock()
        read = [(one, one.window.views()) for one in windows]
        parts = [TextPart(view.content, (), ROLE) for _, views in read for view in views]
        local = self._policy.local
        outcomes = local.start(parts)
        if not isinstance(outcomes, tuple):
            outcomes = yield from outcomes
        outcome = self._weigh(read, outcomes)
        self.seconds += self._clock() - began
        return (outcome,)

    def results(self) -> tuple[GuardrailResult, ...]:
        """Return what each guardrail has come to."""
        return tuple(
            GuardrailResult(
                guardrail,
                tally.verdict,
                tuple(tally.findings),
                self._started_at,
                self.seconds,
                tally.error_type,
                stage=Stage.OUTPUT,
            )
            for guardrail, tally in zip(self._policy.local.guardrails, self._tallies, strict=True)
        )

    def _weigh(
        self,
        read: list[tuple[PendingWindow, list[WindowView]]],
        outcomes: Sequence[Found | Failed],
    ) -> ScanResult:
        found: dict[int, list[tuple[int, Finding]]] = {}
        refused_by: GuardrailResult | None = None
        places = [(row, view) for row, (_, views) in enumerate(read) for view in views]
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, Failed):
                refused_by = refused_by or self._note_failure(number, outcome.error_type)
                continue
            for item in outcome.findings:
                row, view = places[item.part]
                start, end = view.unmap(item.start, item.end)
                placed = Finding(item.guardrail, item.type, read[row][0].window.index, start, end)
                found.setdefault(row, []).append((number, placed))
        is_failed = refused_by is not None  # what was not judged may not leave
        redact: list[WindowFinding] = []
        is_too_long = False
        for row, (one, views) in enumerate(read):
            here = found.get(row, ())
            border, is_longer = self._border(one, views, here)
            is_too_long = is_too_long or is_longer
            refusing = None
            if here:
                refusing, replaced = self._note(one.window, self._final(one.window, border, here))
                refused_by = refused_by or refusing
                redact += replaced
            if refusing is None and not is_longer and not is_failed:
                self._settle(one, border, views)
        return ScanResult(tuple(redact), refused_by, is_too_long)

    def _border(
        self,
        one: PendingWindow,
        views: list[WindowView],
        found: Iterable[tuple[int, Finding]],
    ) -> tuple[int, bool]:
        """Return up to where findings are final, in the buffer; and whether one is too long."""
        window = one.window
        length = len(window.buffer)
        if one.is_final or one.leaves:
            return length, False
        border = max(
            window.unfinished_from(self._policy.unfinished, views),
            window.settled - window.base,
        )
        if self._restoration.originals:
            border = min(border, unfinished_from(window.buffer))
        spans = [(item.start, item.end) for _, item in found]
        border = _before_spans(border, [*spans, *self._placeholders(window)])
        if length - border <= MAX_HELD_BYTES:
            return border, False
        forced = length - MAX_HELD_BYTES
        reaching = [item.end for _, item in found if item.start < forced < item.end]
        if any(end == length for end in reaching):
            return border, True
        return max([forced, *reaching]), False

    def _final(
        self, window: Window, border: int, found: Iterable[tuple[int, Finding]]
    ) -> list[tuple[int, Finding]]:
        """Return findings that are final and new, with offsets of the whole text.

        One that begins in what has left already is cut: its first half is gone, the rest is not.
        """
        final: list[tuple[int, Finding]] = []
        for number, item in found:
            start, end = item.start + window.base, item.end + window.base
            if item.start < border and end > window.settled:
                if window.buffer[item.start : item.end] in self._restoration.originals:
                    continue
                start = max(start, window.settled)
                cut = Finding(item.guardrail, item.type, item.part, start, end)
                final.append((number, cut))
        return final

    def _note(
        self, window: Window, final: list[tuple[int, Finding]]
    ) -> tuple[GuardrailResult | None, list[WindowFinding]]:
        refusing: GuardrailResult | None = None
        redacting: dict[str, Guardrail] = {}
        to_redact: list[Finding] = []
        for number, item in final:
            guardrail = self._policy.local.guardrails[number]
            tally = self._tallies[number]
            if len(tally.findings) < MAX_REPORTED:
                tally.findings.append(item)
            verdict = self._verdict(guardrail)
            tally.verdict = verdict
            if guardrail.mode is Mode.SHADOW:
                continue
            if verdict is Verdict.BLOCK:
                refusing = refusing or GuardrailResult(guardrail, verdict, (item,), 0.0, 0.0)
            elif verdict is Verdict.REDACT:
                redacting[guardrail.name] = guardrail
                to_redact.append(item)
        apart = disjoint(to_redact, rank=lambda one: rank_of(redacting[one.guardrail], one.type))
        numbers = window.bare_numbers(item.start for item in apart)
        return refusing, [
            WindowFinding(
                window,
                item,
                window.buffer[item.start - window.base : item.end - window.base],
                is_bare=numbers.get(item.start) == Token(item.start, item.end),
            )
            for item in apart
        ]

    def _note_failure(self, number: int, error_type: str) -> GuardrailResult | None:
        guardrail = self._policy.local.guardrails[number]
        opens = guardrail.on_error is OnError.ALLOW
        verdict = Verdict.ERROR_OPEN if opens else Verdict.ERROR_CLOSED
        tally = self._tallies[number]
        tally.verdict, tally.error_type = verdict, error_type
        if opens or guardrail.mode is Mode.SHADOW:
            return None
        return GuardrailResult(guardrail, verdict, (), 0.0, 0.0, error_type)

    def _settle(self, one: PendingWindow, border: int, views: list[WindowView]) -> None:
        window = one.window
        self._restore(window, border)
        keep_from = None
        if one.leaves and not one.is_final:
            keep_from = window.base + window.unfinished_from(self._policy.unfinished, views)
        window.settle(window.base + border, keep_from=keep_from)

    def _verdict(self, guardrail: Guardrail) -> Verdict:
        """Return what a finding leads to; what is only observed can only be flagged."""
        if self._is_streamed and guardrail.streams is StreamMode.OBSERVE:
            return Verdict.FLAG
        return _VERDICTS[guardrail.action]

    def _restore(self, window: Window, border: int) -> None:
        originals = self._restoration.originals
        for begin, end in self._placeholders(window, border):
            original = originals[window.buffer[begin:end]]
            window.edits.append(Edit(begin + window.base, end + window.base, original))

    def _placeholders(self, window: Window, border: int | None = None) -> list[tuple[int, int]]:
        """Return where placeholders of the request stand in what is new, up to *border*."""
        originals = self._restoration.originals
        if not originals:
            return []
        start = window.settled - window.base
        limit = len(window.buffer) if border is None else border
        found = PLACEHOLDER.finditer(window.buffer, start, limit)
        return [match.span() for match in found if match.group() in originals]


_VERDICTS: Final = {
    Action.BLOCK: Verdict.BLOCK,
    Action.REDACT: Verdict.REDACT,
    Action.FLAG: Verdict.FLAG,
}


def _before_spans(border: int, spans: Sequence[tuple[int, int]]) -> int:
    """Move the border before any span that it cuts in two: more may melt into that one."""
    while True:
        cut = [start for start, end in spans if start < border < end]
        if not cut:
            return border
        border = min(cut)
