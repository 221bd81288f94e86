"""How much of the end of a text could still become a finding, if more came behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import re2

from sidecar.guardrails.controls import CONTROLS
from sidecar.guardrails.prefixes import UnknownSyntaxError, has_gap, reversed_prefixes
from sidecar.guardrails.rules.rule import Rule
from sidecar.guardrails.text_views import fold, plain

RULES_AN_EXPRESSION: Final = 256
"""More in one, and RE2 would refuse some policies' thousands of terms."""

GAPS_AN_EXPRESSION: Final = 8
"""RE2's states multiply where rules with gaps are in one expression with others. With all rules of
`pii` and `secrets` in one, real text kept making new ones: 33 µs a look; apart, 3 and 2."""

MAX_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Of RE2's automaton, which grows with the texts it sees; some hundred kilobytes in practice."""

UNREAD: Final = r"(?s:.){0,1000}"
"""For a rule whose beginnings cannot be told: anything may be one."""


class Unfinished:
    """What the rules of one policy could still find at the end of a text."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        known = dict.fromkeys(
            (regex, rule.expression.unicode) for rule in rules for regex in _regexes_of(rule)
        )
        self._of_bytes = _compile(tuple(regex for regex, unicode in known if not unicode))
        self._of_text = _compile_text(tuple(regex for regex, unicode in known if unicode))

    def begins_at(self, text: bytes) -> int:
        """Return where the longest end of *text* that could still be found begins.

        *text* is UTF-8; its length is returned where nothing could.
        """
        if text.isascii() and text.translate(None, CONTROLS) == text:
            backwards = text[::-1]
            return len(text) - max(
                _longest(self._of_bytes, backwards), _longest(self._of_text, backwards)
            )
        return self._begins_in_other_views(text.decode())

    def _begins_in_other_views(self, text: str) -> int:
        held = self._held_bytes(text)
        for change in (plain, fold) if self._of_text else (plain,):
            if (changed := change(text)) != text:
                held = max(held, _bytes_behind(text, self._held_bytes(changed), change))
        return len(text.encode()) - held

    def _held_bytes(self, text: str) -> int:
        return max(
            _longest(self._of_bytes, text.encode()[::-1]),
            _longest(self._of_text, text[::-1].encode()),
        )


def _regexes_of(rule: Rule) -> Iterator[str]:
    """Yield every form that something on its way to a finding of *rule* can have."""
    yield rule.expression.regex
    if rule.finder is not None:
        yield rule.finder.pattern.decode("latin-1")
    if rule.grows is not None:
        yield rule.grows


def _longest(expressions: Sequence[Any], backwards: bytes) -> int:
    return max((expression.match(backwards).end() for expression in expressions), default=0)


def _bytes_behind(text: str, held: int, change: Any) -> int:
    """Return how many bytes at the end of *text* make up the last *held* ones once changed."""
    changed = length = 0
    for character in reversed(text):
        # What changes to nothing may stand anywhere; what is left of the last that counts, too.
        if changed >= held and change(character):
            break
        changed += len(change(character).encode())
        length += len(character.encode())
    return length


@lru_cache(maxsize=64)
def _compile(regexes: tuple[str, ...]) -> tuple[Any, ...]:
    return _compiled(regexes, encoding=re2.Options.Encoding.LATIN1)


@lru_cache(maxsize=64)
def _compile_text(regexes: tuple[str, ...]) -> tuple[Any, ...]:
    return _compiled(regexes, encoding=re2.Options.Encoding.UTF8)


def _compiled(regexes: tuple[str, ...], *, encoding: Any) -> tuple[Any, ...]:
    others: list[str] = []
    gaps: list[str] = []
    for regex in regexes:
        (gaps if _may_have_gap(regex) else others).append(regex)
    return tuple(
        expression
        for group, size in ((others, RULES_AN_EXPRESSION), (gaps, GAPS_AN_EXPRESSION))
        for start in range(0, len(group), size)
        for expression in _union(tuple(group[start : start + size]), encoding)
    )


def _may_have_gap(regex: str) -> bool:
    try:
        return has_gap(regex)
    except (UnknownSyntaxError, RecursionError):
        return True  # what cannot be read is one gap: `UNREAD`


def _union(regexes: tuple[str, ...], encoding: Any) -> tuple[Any, ...]:
    """Compile to as few expressions as RE2 takes."""
    options = re2.Options()
    options.log_errors = False  # would print the expression to stderr
    options.longest_match = True
    options.never_capture = True
    options.max_mem = MAX_MEMORY_BYTES
    options.encoding = encoding
    parts = [_prefixes_or_anything(regex) for regex in regexes]
    try:
        return (re2.compile("|".join(parts).encode(), options),)
    except re2.error:
        if len(regexes) == 1:
            return (re2.compile(UNREAD.encode(), options),)
    middle = len(regexes) // 2
    return (*_union(regexes[:middle], encoding), *_union(regexes[middle:], encoding))


def _prefixes_or_anything(regex: str) -> str:
    try:
        # Optional as a whole, so that the expression always matches, if only the empty end.
        return f"(?:{reversed_prefixes(regex)})?"
    except (UnknownSyntaxError, RecursionError):
        return UNREAD
