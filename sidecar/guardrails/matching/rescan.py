"""Scans again after redaction, until no rule finds anything in the remainder."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.domain.finding import NOTHING, Failed, Finding, Found, Outcome
from sidecar.domain.policy import Action, Guardrail, Mode
from sidecar.domain.subject import TextPart
from sidecar.guardrails.cooperative import SLICE_FINDINGS, Cooperative
from sidecar.guardrails.matching.spans import Located, disjoint_in_turns, merged
from sidecar.guardrails.registry import rank_of

STAND_IN: Final = b"[]"
"""Stands in the place of a redacted span: the ends of any placeholder, and little meaning."""

Runs = Sequence[Sequence[int]]

PartSpans = Mapping[int, Sequence[tuple[int, int]]]
"""Spans of each part, by its index: in order, of which no two overlap."""


@dataclass(frozen=True, slots=True)
class Remainder:
    """A part with a stand-in for each redacted span; `ends` are the offsets of their ends."""

    part: int
    content: bytes
    spans: tuple[tuple[int, int], ...]
    ends: tuple[int, ...]

    def located(self, finding: Finding) -> Finding | None:
        """Return a finding by its offsets in the part; None for one within a stand-in."""
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
    parts: Sequence[TextPart], runs: Runs, redacted: PartSpans
) -> tuple[tuple[Remainder, ...], tuple[tuple[int, ...], ...]]:
    """Return the rest of each part that something is taken out of, and of their runs."""
    touched = [run for run in runs if not redacted.keys().isdisjoint(run)]
    left: list[Remainder] = []
    places: dict[int, int] = {}
    for index in sorted(redacted.keys() | {index for run in touched for index in run}):
        content, spans = parts[index].content, redacted.get(index, ())
        pieces: list[bytes] = []
        ends: list[int] = []
        position = length = 0
        for start, end in spans:
            pieces += (content[position:start], STAND_IN)
            length += start - position + len(STAND_IN)
            ends.append(length)
            position = end
        pieces.append(content[position:])
        places[index] = len(left)
        left.append(Remainder(index, b"".join(pieces), tuple(spans), tuple(ends)))
    return tuple(left), tuple(tuple(places[index] for index in run) for run in touched)


MAX_RESCANS: Final = 4
"""A text that still changes then is one that is made to; it counts as found as a whole."""

Scan = Callable[[Sequence[TextPart], Runs], Cooperative[Sequence[Outcome]]]
"""Searches texts by the rules of every guardrail."""


def rescan_until_stable(
    guardrails: Sequence[Guardrail],
    outcomes: Sequence[Outcome],
    *,
    texts: tuple[Sequence[TextPart], Runs],
    scan: Scan,
) -> Cooperative[tuple[Outcome, ...]]:
    """Return *outcomes* and every match that redacting by them would bring to light."""
    now = list(outcomes)
    redacted = spans_to_redact(guardrails, now)
    for _ in range(MAX_RESCANS):
        if not redacted:
            return tuple(now)
        left, runs = remainders(*texts, redacted)
        rescanned = yield from scan([TextPart(one.content, (), "") for one in left], runs)
        for index, outcome in enumerate(rescanned):
            known = now[index]
            if isinstance(known, Failed) or outcome is NOTHING:
                continue
            if isinstance(outcome, Found):
                places = [left[one.part].located(one) for one in outcome.findings]
                outcome = Found(tuple(one for one in places if one is not None))  # noqa: PLW2901 - the same, in the parts
            now[index] = yield from joined(guardrails[index], known, outcome)
        before, redacted = redacted, spans_to_redact(guardrails, now)
        if redacted == before:
            return tuple(now)
    return tuple(known if isinstance(known, Failed) else _whole(known, texts[0]) for known in now)


def joined(guardrail: Guardrail, known: Found, more: Outcome) -> Cooperative[Outcome]:
    """Return the findings of both; a failure of the second search fails the guardrail."""
    if isinstance(more, Failed):
        return more
    if not more.findings:
        return known
    located: list[Located] = []
    for index, one in enumerate((*known.findings, *more.findings), start=1):
        rank = rank_of(guardrail, one.type)
        located.append((one.part, one.start, one.end, rank, one.type, one.guardrail))
        if not index % SLICE_FINDINGS:
            yield
    return Found((yield from disjoint_in_turns(located)), known.score)


def spans_to_redact(guardrails: Sequence[Guardrail], outcomes: Sequence[Outcome]) -> PartSpans:
    """Return the spans that all guardrails together redact: none of a request that is blocked."""
    located: list[Located] = []
    for guardrail, outcome in zip(guardrails, outcomes, strict=True):
        if guardrail.mode is Mode.SHADOW or isinstance(outcome, Failed) or not outcome.findings:
            continue
        if guardrail.action is Action.BLOCK:
            return {}
        if guardrail.action is Action.REDACT:
            located += [(one.part, one.start, one.end, 0, "", "") for one in outcome.findings]
    spans: dict[int, list[tuple[int, int]]] = {}
    for part, start, end, *_ in merged(located):
        spans.setdefault(part, []).append((start, end))
    return spans


def _whole(outcome: Found, parts: Sequence[TextPart]) -> Found:
    """Return each part with a finding as found as a whole, by the first finding's type."""
    first = {one.part: one for one in reversed(outcome.findings)}
    whole = [
        Finding(one.guardrail, one.type, part, 0, len(parts[part].content))
        for part, one in sorted(first.items())
    ]
    return Found(tuple(whole), outcome.score)
