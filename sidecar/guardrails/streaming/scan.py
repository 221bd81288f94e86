"""Scans a streamed answer while it arrives, and decides how much of it may leave.

Each text of an answer (a choice's content, a tool call's arguments) has a `StreamWindow`. After
every event the text in the window is scanned like a request. Text up to the border is final: no
more text can make it part of a match. Findings before it are redacted or refuse the answer; the
text behind it is held back until more arrives.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from sidecar.domain.cooperative import SLICE_BYTES, SLICE_FINDINGS, Cooperative, run_sync
from sidecar.domain.finding import (
    LOCAL_VERDICTS,
    MAX_PLACEHOLDER_BYTES,
    PLACEHOLDER,
    Failure,
    Finding,
    GuardrailResult,
    Restoration,
    Results,
    Verdict,
    unfinished_from,
)
from sidecar.domain.policy import Guardrail, Mode, Stage, StreamMode
from sidecar.guardrails.matching.rule import disjoint
from sidecar.guardrails.registry import rank_of
from sidecar.guardrails.streaming.response_policy import AnswerPolicy
from sidecar.guardrails.streaming.window import MAX_HELD_BYTES, StreamWindow, WindowView

MAX_REPORTED: Final = 100
"""Findings of one guardrail that a report lists; an answer may have any number."""

MAX_RESTORED_BYTES: Final = 4 * 1024 * 1024
"""Restored values may take so much in an answer, beside each of them once: a megabyte of
placeholders for a private key of 3 KB would become 300."""

RESTORED_BYTES: Final = 128
"""Taken by each restored value, however short: it takes some 30 us."""

_LONGEST_ESCAPE: Final = len(rb"\ud83d\ude00")


class WindowFinding(msgspec.Struct, frozen=True):
    """A finding to be replaced by a placeholder; its offsets are those of its window's text.

    `depth` counts the strings around a number without quotes in JSON text; None for all else.
    """

    window: StreamWindow
    finding: Finding
    value: bytes
    depth: int | None


class ScanResult(msgspec.Struct, frozen=True):
    """Findings to replace after one scan, and the first guardrail that refuses the answer.

    `is_too_long` marks a finding that is longer than a window, `is_overfull` more restored values
    than `MAX_RESTORED_BYTES`.
    """

    redact: tuple[WindowFinding, ...] = ()
    refused_by: GuardrailResult | None = None
    is_too_long: bool = False
    is_overfull: bool = False


@dataclass(slots=True)
class _Tally:
    """The findings and verdict of one guardrail over a stream."""

    verdict: Verdict = Verdict.PASS
    findings: list[Finding] = field(default_factory=list[Finding])
    failure: Failure | None = None


NOTHING_FOUND: Final = ScanResult()
"""The result of nearly every scan."""

_Read = list[tuple[StreamWindow, list[WindowView]]]
"""Windows with the views that are scanned of each."""

_Numbered = tuple[int, Finding]
"""A finding with its guardrail's number; offsets are those of its window's buffer."""

_Found = dict[StreamWindow, list[_Numbered]]

_Span = tuple[int, int]


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
        """Begin. A placeholder of the request is no finding, and is turned back."""
        self._policy = policy
        self._is_observed = policy.streams is StreamMode.OBSERVE
        self._is_streamed = is_streamed
        self._clock = clock
        self._originals = restoration.originals
        self._restorable = MAX_RESTORED_BYTES + sum(map(len, self._originals.values()))
        self._holds_back = not (self._is_observed or self._originals)
        self._tallies = tuple(_Tally() for _ in policy.local.guardrails)
        self._started_at = clock()
        self.seconds = 0.0

    def judge(self, windows: Sequence[StreamWindow]) -> ScanResult:
        """Scan *windows*, and settle the final text in each."""
        began, local = self._clock(), self._policy.local
        window = windows[0]
        if len(windows) == 1 and self._holds_back and not (window.leaves or window.is_final):
            # Nearly always there is one text, which goes on, and nothing is found in it.
            views = window.views()
            outcomes = local.start(views)
            if outcomes is local.passing:
                begin = window.unfinished_from(self._policy.unfinished, views)
                if len(window.buffer) - begin <= MAX_HELD_BYTES:
                    window.settle(window.base + begin)
                    self.seconds += self._clock() - began
                    return NOTHING_FOUND
            read = [(window, views)]
        else:
            read = [(window, window.views()) for window in windows]
            outcomes = local.start([view for _, views in read for view in views])
        result = run_sync(self._weigh(read, outcomes))
        self.seconds += self._clock() - began
        return result

    def steps(self, windows: Sequence[StreamWindow]) -> Cooperative[tuple[ScanResult]]:
        """Do the same as `judge`, in slices of a millisecond or two."""
        began = self._clock()
        read: _Read = []
        for count, window in enumerate(windows, start=1):
            read.append((window, (yield from window.views_in_turns())))
            if not count % SLICE_FINDINGS:
                yield
        outcomes = self._policy.local.start([view for _, views in read for view in views])
        result = yield from self._weigh(read, outcomes)
        self.seconds += self._clock() - began
        return (result,)

    def results(self) -> tuple[GuardrailResult, ...]:
        """Return the result of each guardrail so far."""
        return tuple(
            GuardrailResult(
                guardrail,
                tally.verdict,
                tuple(tally.findings),
                self._started_at,
                self.seconds,
                tally.failure,
                stage=Stage.OUTPUT,
            )
            for guardrail, tally in zip(self._policy.local.guardrails, self._tallies, strict=True)
        )

    def _weigh(
        self, read: _Read, outcomes: Results | Cooperative[Results]
    ) -> Cooperative[ScanResult]:
        """Count findings, restore placeholders of the request, and settle what is final."""
        if not isinstance(outcomes, tuple):
            outcomes = yield from outcomes
        found: _Found = {}
        refused_by: GuardrailResult | None = None
        if outcomes is not self._policy.local.passing:
            found, refused_by = self._sort(read, outcomes)
        is_failed = refused_by is not None  # text that was not judged may not leave
        redact: list[WindowFinding] = []
        is_too_long = False
        for count, (window, views) in enumerate(read, start=1):
            if not count % SLICE_FINDINGS:
                yield
            here = found.get(window, ())
            placed = (yield from self._placeholders(window, views)) if self._originals else {}
            border, is_longer = self._border(window, views, here, placed)
            is_too_long = is_too_long or is_longer
            refusing: GuardrailResult | None = None
            replaced: list[WindowFinding] = []
            if here:
                refusing, replaced = self._take_findings(window, border, here, placed)
                refused_by = refused_by or refusing
                redact += replaced
            if refusing is not None or is_longer or is_failed:
                continue
            if self._originals:
                # One that is a part of a finding that is replaced goes with it.
                starts = [one.finding.start - window.base for one in replaced]
                ends = [0, *(one.finding.end - window.base for one in replaced)]
                spans = [
                    (begin, end)
                    for begin, end in placed
                    if end <= border and ends[bisect_left(starts, end)] <= begin
                ]
                values = [self._originals[placed[span]] for span in spans]
                self._restorable -= sum(map(len, values)) + RESTORED_BYTES * len(values)
                if self._restorable < 0:
                    return ScanResult(tuple(redact), refused_by, is_too_long, is_overfull=True)
                yield from window.restore(spans, values)
            keep_from = None
            if (window.leaves or self._is_observed) and not window.is_final:
                keep_from = window.base + window.unfinished_from(self._policy.unfinished, views)
            window.settle(window.base + border, keep_from=keep_from)
        if not (found or is_failed or is_too_long):
            return NOTHING_FOUND
        return ScanResult(tuple(redact), refused_by, is_too_long)

    def _sort(self, read: _Read, outcomes: Results) -> tuple[_Found, GuardrailResult | None]:
        """Return the findings by window, and the first guardrail that failed and refuses."""
        found: _Found = {}
        refused_by: GuardrailResult | None = None
        places = [(window, view) for window, views in read for view in views]
        begins: dict[tuple[int, int, int], int] = {}  # by guardrail, text and end
        cut: list[tuple[StreamWindow, int, Finding]] = []
        for number, outcome in enumerate(outcomes):
            if outcome.failure is not None:
                guardrail, tally = outcome.guardrail, self._tallies[number]
                tally.verdict, tally.failure = outcome.verdict, outcome.failure
                is_closed = outcome.verdict is Verdict.ERROR_CLOSED
                if is_closed and guardrail.mode is not Mode.SHADOW and refused_by is None:
                    refused_by = outcome
                continue
            for item in outcome.findings:
                window, view = places[item.part]
                span = view.unmap(item.start, item.end)
                start, end = window.whole_units(*span)
                finding = Finding(item.guardrail, item.type, window.index, start, end)
                if (start, end) != span:
                    cut.append((window, number, finding))
                    continue
                begins[number, window.index, end] = start
                found.setdefault(window, []).append((number, finding))
        for window, number, finding in cut:
            # In `\nbob@example.com` the letter of the escape is no part of the address.
            begin = begins.get((number, window.index, finding.end))
            if begin is None or begin - finding.start > _LONGEST_ESCAPE:
                found.setdefault(window, []).append((number, finding))
        return found, refused_by

    def _border(
        self,
        window: StreamWindow,
        views: list[WindowView],
        found: Sequence[_Numbered],
        placed: Iterable[_Span],
    ) -> tuple[int, bool]:
        """Return the end of the final text in the buffer, and whether a finding is too long."""
        length = len(window.buffer)
        if window.is_final or window.leaves or self._is_observed:
            return length, False
        border = window.unfinished_from(self._policy.unfinished, views)
        if border < (settled := window.settled - window.base):
            border = settled
        if self._originals:
            border = min(border, window.held_from(unfinished_from, views))
        if found or self._originals:
            spans = [*[(item.start, item.end) for _, item in found], *placed]
            # No span is cut in two: more text may make it longer.
            while cut := [start for start, end in spans if start < border < end]:
                border = min(cut)
        if length - border <= MAX_HELD_BYTES:
            return border, False
        forced = length - MAX_HELD_BYTES
        reaching = [item.end for _, item in found if item.start < forced < item.end]
        if any(end == length for end in reaching):
            return border, True
        return max([forced, *reaching]), False

    def _take_findings(
        self,
        window: StreamWindow,
        border: int,
        found: Sequence[_Numbered],
        placed: Iterable[_Span],
    ) -> tuple[GuardrailResult | None, list[WindowFinding]]:
        """Count the findings that are final and new, and return the effect they have.

        One that begins in text that has left already is cut: its first half is gone, the rest is
        not.
        """
        refusing: GuardrailResult | None = None
        redacting: dict[str, Guardrail] = {}
        to_redact: list[Finding] = []
        placeholders = [(-1, -1), *placed]
        for number, item in found:
            start, end = item.start + window.base, item.end + window.base
            before = bisect_right(placeholders, (item.start, len(window.buffer))) - 1
            is_placeholder = item.end <= placeholders[before][1]  # or a part of one
            if item.start >= border or end <= window.settled or is_placeholder:
                continue
            start = max(start, window.settled)
            final = Finding(item.guardrail, item.type, item.part, start, end)
            guardrail, tally = self._policy.local.guardrails[number], self._tallies[number]
            if len(tally.findings) < MAX_REPORTED:
                tally.findings.append(final)
            verdict = LOCAL_VERDICTS[guardrail.action]
            if self._is_streamed and guardrail.streams is StreamMode.OBSERVE:
                verdict = Verdict.FLAG  # the text has left
            tally.verdict = verdict
            if guardrail.mode is Mode.SHADOW:
                continue
            if verdict is Verdict.BLOCK:
                refusing = refusing or GuardrailResult(guardrail, verdict, (final,))
            elif verdict is Verdict.REDACT:
                redacting[guardrail.name] = guardrail
                to_redact.append(final)
        apart = disjoint(to_redact, rank=lambda one: rank_of(redacting[one.guardrail], one.type))
        depths = window.depths_of_numbers((item.start, item.end) for item in apart)
        return refusing, [
            WindowFinding(
                window,
                item,
                window.buffer[item.start - window.base : item.end - window.base],
                depths.get(item.start),
            )
            for item in apart
        ]

    def _placeholders(
        self, window: StreamWindow, views: list[WindowView]
    ) -> Cooperative[dict[_Span, bytes]]:
        r"""Return the request's placeholders in the new text, by span and in order.

        JSON text with escapes is not read as it stands: `\u00e90` would be one number.
        """
        found: dict[_Span, bytes] = {}
        for view in views[1:] or views:
            text, at = view.content, 0 if view.outer else window.settled - window.base
            while at < len(text):
                end = at + SLICE_BYTES
                for match in PLACEHOLDER.finditer(text, at, end + MAX_PLACEHOLDER_BYTES):
                    if match.start() >= end:
                        break
                    at = match.end()
                    if match.group() in self._originals:
                        span = window.whole_units(*view.unmap(*match.span()))
                        found.setdefault(span, match.group())
                at = max(at, end)
                if at < len(text):
                    yield
        placed: dict[_Span, bytes] = {}
        settled = window.settled - window.base
        for span, placeholder in sorted(found.items()):
            if span[0] >= settled:
                placed[span] = placeholder
                settled = span[1]
        return placed
