"""What is left once findings are taken out is looked at again, until nothing more is found.

Only requests that are redacted pay for it, and only for the texts that something is taken out of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sidecar.domain.finding import Finding
from sidecar.domain.policy import Action, Guardrail, Mode
from sidecar.domain.subject import TextPart
from sidecar.guardrails.outcomes import Failed, Found, Outcome
from sidecar.guardrails.overlaps import Located, as_finding, merged
from sidecar.guardrails.remainders import PartSpans, Remainder, remainders
from sidecar.guardrails.rules.catalogue import rank_of
from sidecar.guardrails.slices import SLICE_FINDINGS, Steps

MAX_LOOKS: Final = 4
"""A text that still changes then is one that is made to; it counts as found as a whole."""

Runs = Sequence[Sequence[int]]

Look = Callable[[Sequence[TextPart], Runs], Steps[Sequence[Outcome]]]
"""Judges texts by the rules of every guardrail."""


def settled(
    guardrails: Sequence[Guardrail],
    outcomes: Sequence[Outcome],
    *,
    texts: tuple[Sequence[TextPart], Runs],
    look: Look,
) -> Steps[tuple[Outcome, ...]]:
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


def joined(guardrail: Guardrail, known: Found, seen: Outcome) -> Steps[Outcome]:
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


def disjoint_findings(located: list[Located]) -> Steps[tuple[Finding, ...]]:
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
