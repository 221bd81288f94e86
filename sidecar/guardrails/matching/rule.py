"""Rules, the spans that they find in texts, and overlaps of findings.

A rule is an expression, the check of each match, and the finding that it makes. The database has
reported the rules that occur somewhere in the texts; each of these is searched in each view, its
candidates are checked, and spans are mapped back to the parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import re2

from sidecar.domain.cooperative import SLICE_CANDIDATES, SLICE_FINDINGS, Cooperative
from sidecar.domain.finding import Finding
from sidecar.guardrails.matching.text_views import IDENTITY, JOINED_VIEW, TextView, ViewKind

Span = tuple[int, int]
Locate = Callable[[bytes, int, int], Iterable[Span | None]]
"""From the whole text and the candidate's span to the spans that are findings, if any.

None in between is work without a finding, such as a row of a table.

Seeing the whole text lets a rule look at the candidate's neighbours. Runs on candidates only.
"""

MAX_CANDIDATES: Final = 5_000
"""Candidates of one rule in one scan; beyond it the rest of the text counts as found.

About 3 µs a candidate, so this bounds one rule to some 15 ms, in turns.
"""

BUILT_IN_REACH: Final = 65_536
"""No match of a built-in rule is longer; in a text of several windows it is cut."""

_ESCAPE: Final = re.compile(r"\\.", re.DOTALL)
_LOOP: Final = re.compile(r"[*+]|,\s*\}")


class Rank:
    """Which finding stays when two overlap: the lower number."""

    AUTHOR: Final = 0  # rules of a policy's author
    VENDOR_TOKEN: Final = 10
    SHARED_PREFIX: Final = 15  # a token form several vendors use
    GENERIC_SECRET: Final = 20
    LIKELY_SECRET: Final = 25
    CARD: Final = 30
    IBAN: Final = 35
    SSN: Final = 40
    NATIONAL: Final = 42
    CONTEXT: Final = 45
    EMAIL: Final = 50
    ADDRESS: Final = 60
    PHONE: Final = 70
    CODE: Final = 75
    REMOTE: Final = 80
    WHOLE_TEXT: Final = 90


@dataclass(frozen=True, slots=True)
class Expression:
    """A regular expression of the shared database.

    `unicode` matches code points instead of bytes; the built-in rules match bytes. `filtered` is
    whether the database may decide that it does not occur; if not, every text is searched.
    `counted` makes the database report every occurrence instead of the first.
    """

    regex: str
    unicode: bool = False
    filtered: bool = True
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of content. Group 1 of the expression, if there is one, is the candidate.

    `type` is the finding's, in upper snake case. `folded` rules search case-folded text.
    `by_author` marks a policy's own expression, of which no length is known but by its syntax.
    `finder` finds the candidates in RE2's place, all of which the expression must find as well:
    it may look around, and takes 0.3 µs a match instead of the 2 of RE2's binding. It must not be
    able to match in two ways, since it would try both.
    `likely` is an expression of RE2 that matches wherever a match of `finder` begins, and hardly
    anywhere else: it skips the text between in a tenth of the time.
    `grows` is an expression of all findings if `locate` reads on behind the match.
    `joins` searches words also without the blanks and marks of other scripts within them.
    """

    type: str
    expression: Expression
    locate: Locate | None = None
    rank: int = Rank.VENDOR_TOKEN
    folded: bool = False
    max_candidates: int = MAX_CANDIDATES
    by_author: bool = False
    finder: re.Pattern[bytes] | None = None
    likely: Any = None
    grows: str | None = None
    joins: bool = False

    @property
    def group(self) -> int:
        """The group that is the candidate; an author's own groups mean nothing to us."""
        return 0 if self.expression.unicode else min(1, int(self.pattern.groups))

    @property
    def reach(self) -> int | None:
        """The most bytes a match can have; None if that is not known.

        RE2 writes counted repeats out, so the size of a program without loops bounds the match.
        """
        if not self.by_author:
            return BUILT_IN_REACH
        has_loop = _LOOP.search(_ESCAPE.sub("", self.expression.regex)) is not None
        return None if has_loop else int(compile_re2(self.expression).programsize)

    @property
    def pattern(self) -> Any:
        """The expression that finds candidates; compiled once a process for equal expressions."""
        return self.finder or compile_re2(self.expression)


def rule(
    type_: str,
    regex: str,
    locate: Locate | None = None,
    *,
    rank: int = Rank.VENDOR_TOKEN,
    finder: str | None = None,
    likely: str | None = None,
) -> Rule:
    """Return a built-in rule: bytes, group 1 or the whole match is the candidate."""
    return Rule(
        type=type_,
        expression=Expression(regex),
        locate=locate,
        rank=rank,
        finder=None if finder is None else re.compile(finder.encode()),
        likely=None if likely is None else compile_re2(Expression(likely)),
    )


@lru_cache(maxsize=16_384)
def compile_re2(expression: Expression) -> Any:
    """Compile for RE2, with code points or bytes as the expression says.

    Raises:
        re2.error: the expression is not RE2 syntax.
    """
    options = re2.Options()
    options.log_errors = False  # would print the expression to stderr
    if not expression.unicode:
        options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(expression.regex.encode(), options)


def where(predicate: Callable[[bytes], bool]) -> Locate:
    """Return a `Locate` that takes the candidate whole, if *predicate* holds."""

    def locate(content: bytes, start: int, end: int) -> Iterable[Span]:
        return ((start, end),) if predicate(content[start:end]) else ()

    return locate


KEY_BYTES: Final = 16_384
"""Text behind the header of a private key in which its end is looked for, hidden or not."""

WINDOW_BYTES: Final = 262_144
"""A longer text is searched in windows of so many bytes, some 0.3 ms each."""

MAX_FOUND: Final = 2_000
"""Findings of one rule in one scan; beyond it the rest of the text counts as found."""

OFFSETS_WEIGHT: Final = 8
"""Candidates that one finding counts for if its offsets are mapped back to the part's: the first
in each chunk of a text takes 0.2 ms."""

BYTES_A_CANDIDATE: Final = 64
"""Every so many bytes of one candidate count as one more."""

_FOR_WORDS: Final = frozenset({ViewKind.FOLDED, ViewKind.LEET})

PartSpan = tuple[int, int, int]
"""A part's index, start and end in its bytes."""


def spans(  # noqa: C901 - the bounds and the turns of one loop
    rule: Rule,
    views: Sequence[TextView],
    ends: Sequence[int],
    *,
    first_end: int,
    wholes: Mapping[int, tuple[int, str]],
) -> Cooperative[tuple[list[PartSpan], bool]]:
    """Return the spans that *rule* finds in *views*, from the view on that holds *first_end*.

    Parts in *wholes* count as found already; those found by no higher rank and type are skipped.
    With the spans comes whether the search gave up, so that the rest counts as found. Folded rules
    search words, all others the text as it is read.
    """
    locate, left, work, gave_up = rule.locate, rule.max_candidates, 0, False
    kind = rule.rank, rule.type
    found: list[PartSpan] = []
    for count, (view, view_end) in enumerate(zip(views, ends, strict=True), start=1):
        if not count % SLICE_FINDINGS:
            yield
        is_other = view.kinds.isdisjoint(_FOR_WORDS) if rule.folded else view.kinds <= _FOR_WORDS
        if is_other or view_end <= first_end or (view.kinds is JOINED_VIEW and not rule.joins):
            continue
        if wholes and view.part in wholes and wholes[view.part] <= kind:
            continue
        part, offsets, accepts, begin = view.part, view.offsets, view.accepts, len(found)
        if left <= 0:  # too many to check: the rest counts as found
            if view.length:
                found.append((part, 0, view.length))
                gave_up = True
            continue
        for candidate in candidates(rule, view.content):
            if candidate is None or work >= SLICE_CANDIDATES:
                yield
                work = 0
            if candidate is None:
                continue
            start, end = candidate
            # A long one counts for several, since some validators go through all of it.
            weight = 1 if locate is None else 1 + (end - start) // BYTES_A_CANDIDATE
            left -= weight
            work += weight
            if left < 0 or len(found) > MAX_FOUND:
                found[begin:] = [(part, 0, view.length)]
                left, gave_up = min(left, 0), True
                break
            for span in (candidate,) if locate is None else locate(view.content, start, end):
                work += 1
                if work >= SLICE_CANDIDATES:
                    yield
                    work = 0
                if span is None or (accepts is not None and not accepts(*span)):
                    continue
                if offsets is not IDENTITY:
                    span = offsets.span(*span)  # noqa: PLW2901 - the same span, in the part
                    work += OFFSETS_WEIGHT
                found.append((part, *span))
    return found, gave_up


CALL_BYTES: Final = 64
"""Text that `finder` searches in the time of one call of `likely`, which has to skip more."""

SPARE_BYTES: Final = 4_096
"""From so much less skipped than that on, `likely` is not used: matches are everywhere."""

_UNANCHORED: Final = re2._re2.RE2.Anchor.UNANCHORED  # noqa: SLF001 - see `every_match`


def occurs(pattern: Any, content: bytes, start: int = 0, end: int | None = None) -> bool:
    """Return whether an expression of RE2 matches, in a third of the time of its `search`."""
    limit = len(content) if end is None else end
    found: int = pattern._regexp.Match(_UNANCHORED, content, start, limit)[0][0]  # noqa: SLF001 - as in `every_match`
    return found >= 0


def every_match(
    pattern: Any, content: bytes, position: int, limit: int, *, likely: Any = None
) -> Iterator[Sequence[Span]]:
    """Yield the span and the groups' spans of each match, as `finditer` finds them.

    RE2's C++ object is called itself: the matches of its module take three times as long.
    *likely* is that of a rule whose *pattern* is of `re`.
    """
    spare = SPARE_BYTES
    while likely is not None and spare > 0:
        start = likely._regexp.Match(_UNANCHORED, content, position, limit)[0][0]  # noqa: SLF001 - above
        if start < 0:
            return
        spare += start - position - CALL_BYTES
        match = pattern.match(content, start, limit)
        position = start + 1
        if match is not None:
            yield match.regs
            position = match.end()
    if isinstance(pattern, re.Pattern):
        for match in pattern.finditer(content, position, limit):
            yield match.regs
        return
    search = pattern._regexp.Match  # noqa: SLF001 - above
    while position <= limit:
        found = search(_UNANCHORED, content, position, limit)
        start, end = found[0]
        if start < 0:
            return
        yield found
        position = max(end, position + 1)


def candidates(rule: Rule, content: bytes) -> Iterator[Span | None]:
    """Yield the spans the expression alone finds, left to right, and None after each window.

    A match counts only if it starts so far before its window's end that it is seen whole, so
    windows change nothing. An expression without a known reach is searched in one go.
    """
    pattern, group, length = rule.pattern, rule.group, len(content)
    reach = rule.reach if length > WINDOW_BYTES else None
    position = 0
    while position < length:
        limit = length if reach is None else min(length, position + max(WINDOW_BYTES, 2 * reach))
        certain = length if reach is None or limit == length else limit - reach
        following = certain
        for found in every_match(pattern, content, position, limit, likely=rule.likely):
            start, end = found[0]
            if start >= certain:
                break
            following = max(certain, end)
            span = found[group]
            if span[0] < span[1]:
                yield span
        position = following
        if position < length:
            yield None


Located = tuple[int, int, int, int, str, str]
"""A finding with its rank: part, start, end, rank, type, guardrail.

A plain tuple, since a text full of matches makes ten thousand of them. Of two that overlap the
lower rank stays.
"""


def disjoint(
    findings: Iterable[Finding], *, rank: Callable[[Finding], int]
) -> tuple[Finding, ...]:
    """Return findings of which no two overlap, in text order, that cover the same bytes."""
    located = merged(
        [(one.part, one.start, one.end, rank(one), one.type, one.guardrail) for one in findings]
    )
    return tuple(
        Finding(guardrail, type_, part, start, end)
        for part, start, end, _, type_, guardrail in located
    )


def disjoint_in_turns(located: list[Located]) -> Cooperative[tuple[Finding, ...]]:
    """Do the same as `disjoint` for thousands of findings."""
    findings: list[Finding] = []
    for count, (part, start, end, _, type_, guardrail) in enumerate(merged(located), start=1):
        findings.append(Finding(guardrail, type_, part, start, end))
        if not count % SLICE_FINDINGS:
            yield
    return tuple(findings)


def merged(located: list[Located]) -> Iterator[Located]:
    """Yield findings of which no two overlap, in text order, that cover the same bytes.

    Of findings that overlap one stays, the lowest rank, then the longest, and grows over the
    rest: dropping the others would leave their ends in the text. The order given is of no
    consequence; *located* is sorted.
    """
    located.sort()
    at = 0
    while at < len(located):
        best = located[at]
        part, start, end, *_ = best
        at += 1
        while at < len(located) and located[at][0] == part and located[at][1] < end:
            other = located[at]
            end = max(end, other[2])
            best = min(best, other, key=lambda one: (one[3], one[1] - one[2], one[1], *one[4:]))
            at += 1
        yield part, start, end, *best[3:]
