"""Scans again after redaction, until no rule finds anything in the remainder."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.domain.finding import Failed, Finding, Found, Outcome
from sidecar.domain.policy import Action, Guardrail, Mode
from sidecar.domain.subject import TextPart
from sidecar.guardrails.cooperative import SLICE_FINDINGS, Cooperative
from sidecar.guardrails.matching.spans import Located, as_finding, merged
from sidecar.guardrails.registry import rank_of

STAND_IN: Final = b"[]"
"""In the place of what is taken out: the ends of any placeholder, and nothing that means much."""

PartSpans = Mapping[int, Sequence[tuple[int, int]]]
"""Spans of each part, by its index: in order, of which no two overlap."""


@dataclass(frozen=True, slots=True)
class Remainder:
    """A part without what was taken out of it; `ends` are where the stand-ins end."""

    part: int
    content: bytes
    spans: tuple[tuple[int, int], ...]
    ends: tuple[int, ...]

    def located(self, finding: Finding) -> Finding | None:
        """Return where a finding stands in the part; None for one within a stand-in."""
        start, is_taken = self._origin(finding.start)
        last, ends_taken = self._origin(finding.end - 1)
        if is_taken and ends_taken and start == last:
            return None
        return replace(
            finding,
            part=self.part,
            start=self.spans[start][0] if is_taken else start,
            end=self.spans[last][1] if ends_taken else last + 1,
        )

    def _origin(self, offset: int) -> tuple[int, bool]:
        """Return the offset in the part, or the number of the span whose stand-in it is in."""
        index = bisect_right(self.ends, offset)
        if index < len(self.ends) and offset >= self.ends[index] - len(STAND_IN):
            return index, True
        if not index:
            return offset, False
        return self.spans[index - 1][1] + offset - self.ends[index - 1], False


def remainders(
    parts: Sequence[TextPart], runs: Sequence[Sequence[int]], taken: PartSpans
) -> tuple[tuple[Remainder, ...], tuple[tuple[int, ...], ...]]:
    """Return what is left of the parts that something is taken out of, and of their runs."""
    touched = [run for run in runs if not taken.keys().isdisjoint(run)]
    indexes = sorted(taken.keys() | {index for run in touched for index in run})
    places = {index: place for place, index in enumerate(indexes)}
    left = tuple(
        _remainder(index, parts[index].content, taken.get(index, ())) for index in indexes
    )
    return left, tuple(tuple(places[index] for index in run) for run in touched)


def _remainder(part: int, content: bytes, spans: Sequence[tuple[int, int]]) -> Remainder:
    views: list[bytes] = []
    ends: list[int] = []
    position = length = 0
    for start, end in spans:
        views += (content[position:start], STAND_IN)
        length += start - position + len(STAND_IN)
        ends.append(length)
        position = end
    views.append(content[position:])
    return Remainder(part, b"".join(views), tuple(spans), tuple(ends))


MAX_LOOKS: Final = 4
"""A text that still changes then is one that is made to; it counts as found as a whole."""

Runs = Sequence[Sequence[int]]

Look = Callable[[Sequence[TextPart], Runs], Cooperative[Sequence[Outcome]]]
"""Judges texts by the rules of every guardrail."""


def rescan_until_stable(
    guardrails: Sequence[Guardrail],
    outcomes: Sequence[Outcome],
    *,
    texts: tuple[Sequence[TextPart], Runs],
    look: Look,
) -> Cooperative[tuple[Outcome, ...]]:
    """Return *outcomes* with whatever redacting by them would bring to light."""
    now = list(outcomes)
    taken = _taken(guardrails, now)
    for _ in range(MAX_LOOKS):
        if not taken or _is_blocked(guardrails, now):
            return tuple(now)
        left, runs = remainders(*texts, taken)
        seen = yield from look([TextPart(one.content, (), "") for one in left], runs)
        for index, (known, outcome) in enumerate(zip(now, seen, strict=True)):
            if isinstance(known, Found):
                found = _located(left, outcome)
                now[index] = yield from joined(guardrails[index], known, found)
        before, taken = taken, _taken(guardrails, now)
        if taken == before:
            return tuple(now)
    return tuple(_whole(known, texts[0]) for known in now)


def joined(guardrail: Guardrail, known: Found, seen: Outcome) -> Cooperative[Outcome]:
    """Return what was found, and what was seen as well."""
    if isinstance(seen, Failed):
        return seen
    if not seen.findings:
        return known
    located: list[Located] = []
    for index, one in enumerate((*known.findings, *seen.findings), start=1):
        rank = rank_of(guardrail, one.type)
        located.append((one.part, one.start, one.end, rank, one.type, one.guardrail))
        if not index % SLICE_FINDINGS:
            yield
    return Found((yield from disjoint_findings(located)), known.score)


def disjoint_findings(located: list[Located]) -> Cooperative[tuple[Finding, ...]]:
    """Return findings of which no two overlap, that cover the same bytes."""
    findings: list[Finding] = []
    disjoint = merged(located)
    for start in range(0, len(disjoint), SLICE_FINDINGS):
        if start:
            yield
        findings += [as_finding(one) for one in disjoint[start : start + SLICE_FINDINGS]]
    return tuple(findings)


def _found(
    guardrails: Sequence[Guardrail], outcomes: Sequence[Outcome], action: Action
) -> Iterator[Finding]:
    for guardrail, outcome in zip(guardrails, outcomes, strict=True):
        if guardrail.action is action and guardrail.mode is Mode.ENFORCE:
            yield from outcome.findings if isinstance(outcome, Found) else ()


def _is_blocked(guardrails: Sequence[Guardrail], outcomes: Sequence[Outcome]) -> bool:
    return any(True for _ in _found(guardrails, outcomes, Action.BLOCK))


def _taken(guardrails: Sequence[Guardrail], outcomes: Sequence[Outcome]) -> PartSpans:
    """Return the spans that are to be redacted, of all guardrails together."""
    located: list[Located] = [
        (one.part, one.start, one.end, 0, "", "")
        for one in _found(guardrails, outcomes, Action.REDACT)
    ]
    spans: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for part, start, end, *_ in merged(located):
        spans[part].append((start, end))
    return spans


def _located(left: Sequence[Remainder], outcome: Outcome) -> Outcome:
    if isinstance(outcome, Failed):
        return outcome
    found = (left[one.part].located(one) for one in outcome.findings)
    return Found(tuple(one for one in found if one is not None))


def _whole(outcome: Outcome, parts: Sequence[TextPart]) -> Outcome:
    if isinstance(outcome, Failed):
        return outcome
    first = {one.part: one for one in reversed(outcome.findings)}
    whole = [
        Finding(one.guardrail, one.type, part, 0, len(parts[part].content))
        for part, one in sorted(first.items())
    ]
    return Found(tuple(whole), outcome.score)
