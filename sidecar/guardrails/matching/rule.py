"""Rules: an expression, the check of each match, and the finding that it makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import re2

Span = tuple[int, int]
Locate = Callable[[bytes, int, int], Iterable[Span]]
"""From the whole text and the candidate's span to the spans that are findings, if any.

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
    `grows` is an expression of all findings if `locate` reads on behind the match.
    """

    type: str
    expression: Expression
    locate: Locate | None = None
    rank: int = Rank.VENDOR_TOKEN
    folded: bool = False
    max_candidates: int = MAX_CANDIDATES
    by_author: bool = False
    finder: re.Pattern[bytes] | None = None
    grows: str | None = None

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
) -> Rule:
    """Return a built-in rule: bytes, group 1 or the whole match is the candidate."""
    return Rule(
        type=type_,
        expression=Expression(regex),
        locate=locate,
        rank=rank,
        finder=None if finder is None else re.compile(finder.encode()),
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
