"""Scans again after redaction, until no rule finds anything in the remainder."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.domain.finding import LOCAL_VERDICTS, Finding, GuardrailResult, Results
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

Scan = Callable[[Sequence[TextPart], Runs], Cooperative[Results]]
"""Searches texts by the rules of every guardrail."""


def rescan_until_stable(
    results: Results, *, texts: tuple[Sequence[TextPart], Runs], scan: Scan
) -> Cooperative[Results]:
    """Return *results* and every match that redacting by them would bring to light."""
    now = list(results)
    redacted = spans_to_redact(now)
    for _ in range(MAX_RESCANS):
        if not redacted:
            return tuple(now)
        left, runs = remainders(*texts, redacted)
        rescanned = yield from scan([TextPart(one.content, (), "") for one in left], runs)
        for index, result in enumerate(rescanned):
            known = now[index]
            if known.error_type is not None:
                continue
            if result.error_type is not None:
                now[index] = result
            if not result.findings:
                continue
            places = [left[one.part].located(one) for one in result.findings]
            if more := [one for one in places if one is not None]:
                findings = yield from joined(known.guardrail, known.findings, more)
                verdict = LOCAL_VERDICTS[known.guardrail.action]
                now[index] = replace(known, verdict=verdict, findings=findings)
        before, redacted = redacted, spans_to_redact(now)
        if redacted == before:
            return tuple(now)
    return tuple(_whole(known, texts[0]) if known.findings else known for known in now)


def joined(
    guardrail: Guardrail, known: Sequence[Finding], more: Sequence[Finding]
) -> Cooperative[tuple[Finding, ...]]:
    """Return the findings of both searches of a guardrail, of which no two overlap."""
    located: list[Located] = []
    for index, one in enumerate((*known, *more), start=1):
        rank = rank_of(guardrail, one.type)
        located.append((one.part, one.start, one.end, rank, one.type, one.guardrail))
        if not index % SLICE_FINDINGS:
            yield
    return (yield from disjoint_in_turns(located))


def spans_to_redact(results: Iterable[GuardrailResult]) -> PartSpans:
    """Return the spans that all guardrails together redact: none of a request that is blocked."""
    located: list[Located] = []
    for result in results:
        guardrail = result.guardrail
        if guardrail.mode is Mode.SHADOW or not result.findings:
            continue
        if guardrail.action is Action.BLOCK:
            return {}
        if guardrail.action is Action.REDACT:
            located += [(one.part, one.start, one.end, 0, "", "") for one in result.findings]
    spans: dict[int, list[tuple[int, int]]] = {}
    for part, start, end, *_ in merged(located):
        spans.setdefault(part, []).append((start, end))
    return spans


def _whole(result: GuardrailResult, parts: Sequence[TextPart]) -> GuardrailResult:
    """Return each part with a finding as found as a whole, by the first finding's type."""
    first = {one.part: one for one in reversed(result.findings)}
    whole = [
        Finding(one.guardrail, one.type, part, 0, len(parts[part].content))
        for part, one in sorted(first.items())
    ]
    return replace(result, findings=tuple(whole))
