"""Finds the suffix of a stream that could still become a match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import re2

from sidecar.guardrails.matching.database import CONTROLS
from sidecar.guardrails.matching.rule import Rule
from sidecar.guardrails.matching.text_views import fold, plain

MAX_REPEAT: Final = 1_000
"""RE2 knows no higher count."""

_ANYTHING: Final = r"(?s:.)"

_NEARLY_ANY: Final = ("[^", r"\S", r"\D", r"\W", _ANYTHING)


@dataclass(frozen=True, slots=True)
class _Atom:
    """Source text that matches one character."""

    text: str


@dataclass(frozen=True, slots=True)
class _Assertion:
    """Source text that matches no character."""

    text: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    items: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    items: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    item: _Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class _Flags:
    flags: str
    item: _Node


_Node: TypeAlias = "_Atom | _Assertion | _Sequence | _Choice | _Repeat | _Flags"

_EMPTY: Final = _Sequence(())


class UnknownSyntaxError(ValueError):
    """The expression uses what is not read here."""


def reversed_prefixes(regex: str) -> str:
    """Return an expression for every beginning of a match of *regex*, backwards, empty included.

    Raises:
        UnknownSyntaxError: *regex* cannot be read.
    """
    return _prefixes(_Parser(regex).parse())


def has_gap(regex: str) -> bool:
    """Tell whether *regex* counts characters of nearly any kind, as `[^0-9]{0,24}` does.

    Read backwards such a gap comes before the word that opens it, so it may begin anywhere in any
    text, and the automaton keeps where.

    Raises:
        UnknownSyntaxError: *regex* cannot be read.
    """
    return _has_gap(_Parser(regex).parse())


def _has_gap(node: _Node) -> bool:
    match node:
        case _Atom() | _Assertion():
            return False
        case _Sequence(items) | _Choice(items):
            return any(_has_gap(item) for item in items)
        case _Repeat(_Atom(text), _, most):
            return most is not None and most > 1 and text.startswith(_NEARLY_ANY)
        case _Repeat(item, _, _) | _Flags(_, item):
            return _has_gap(item)


def _prefixes(node: _Node) -> str:
    match node:
        case _Atom(text):
            return f"{text}?"
        case _Assertion():
            return ""
        case _Sequence(items):
            return _sequence_prefixes(items)
        case _Choice(items):
            return "(?:" + "|".join(_prefixes(item) for item in items) + ")"
        case _Repeat(_Atom(text), _, most):
            return _repeated(text, 0, most)
        case _Repeat(item, _, most):
            before = _repeated(_group(_reversed(item)), 0, None if most is None else most - 1)
            return "" if most == 0 else _group(_prefixes(item)) + before
        case _Flags(flags, item):
            return f"(?{flags}:{_prefixes(item)})"


def _sequence_prefixes(items: tuple[_Node, ...]) -> str:
    """Of a, b, c: beginnings of a; all of a with those of b; all of a and b with those of c."""
    result = ""
    for item in reversed(items):
        match item:
            case _Assertion(text) if not result:
                result = ""
            case _Atom(text) | _Assertion(text):
                result = f"(?:{result}{text})?"
            case _ if not result:
                result = _prefixes(item)
            case _:
                result = f"(?:{result}{_reversed(item)}|{_prefixes(item)})"
    return result


def _reversed(node: _Node) -> str:
    match node:
        case _Atom(text) | _Assertion(text):
            return text
        case _Sequence(items):
            return "".join(_reversed(item) for item in reversed(items))
        case _Choice(items):
            return "(?:" + "|".join(_reversed(item) for item in items) + ")"
        case _Repeat(_Atom(text), least, most):
            return _repeated(text, least, most)
        case _Repeat(item, least, most):
            return _repeated(_group(_reversed(item)), least, most)
        case _Flags(flags, item):
            return f"(?{flags}:{_reversed(item)})"


def _group(text: str) -> str:
    return f"(?:{text})"


def _repeated(text: str, least: int, most: int | None) -> str:
    if most is None:
        return f"{text}*" if least == 0 else f"{text}{{{least},}}"
    return "" if most == 0 else f"{text}{{{least},{most}}}"


_ESCAPE: Final = re.compile(
    r"\\(?:x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|[pP](?:\{\^?\w+\}|\w)|[0-7]{1,3}|.)", re.DOTALL
)
_CLASS: Final = re.compile(r"\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]", re.DOTALL)
_QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{(\d+)(?:(,)(\d*))?\})[?+]?")
_GROUP: Final = re.compile(r"\((?:\?P?<\w+>|\?>|\?([a-zA-Z]*(?:-[a-zA-Z]+)?)([:)]))?")
_LOOK_AROUND: Final = re.compile(r"\(\?<?[=!]")
_SIMPLE: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_ZERO_WIDTH: Final = frozenset({"A", "z", "Z", "B"})


class _Parser:
    """Reads RE2's syntax as far as structure goes; a character's own text is kept as it is.

    And what of the syntax of `re` is no more than a condition: look-around, possessive repeats.
    """

    def __init__(self, regex: str) -> None:
        self._regex = regex
        self._at = 0

    def parse(self) -> _Node:
        """Return the whole expression."""
        node = self._choice()
        if self._at != len(self._regex):
            raise UnknownSyntaxError
        return node

    def _peek(self) -> str:
        return self._regex[self._at : self._at + 1]

    def _choice(self) -> _Node:
        items = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            items.append(self._sequence())
        return items[0] if len(items) == 1 else _Choice(tuple(items))

    def _sequence(self) -> _Node:
        items: list[_Node] = []
        while (character := self._peek()) and character not in "|)":
            item = self._item()
            if isinstance(item, str):
                # Flags hold for the rest of the group they stand in, its other branches too.
                items.append(_Flags(item, self._choice()))
                break
            items.append(self._quantified(item))
        return items[0] if len(items) == 1 else _Sequence(tuple(items))

    def _quantified(self, item: _Node) -> _Node:
        while (found := _QUANTIFIER.match(self._regex, self._at)) is not None:
            self._at = found.end()
            simple, least, comma, most = found.groups()
            low, high = _SIMPLE[simple] if simple else (int(least), _most(least, comma, most))
            if max(low, high or 0) > MAX_REPEAT:
                raise UnknownSyntaxError
            item = _Repeat(item, low, high)
        return item

    def _item(self) -> _Node | str:
        match self._peek():
            case "(":
                return self._group()
            case "[":
                return _Atom(self._take(_CLASS))
            case "\\":
                return self._escape()
            case "^" | "$":
                self._at += 1
                return _EMPTY
            case ".":
                self._at += 1
                return _Atom(_ANYTHING)
            case character:
                self._at += 1
                return _Atom(character)

    def _group(self) -> _Node | str:
        if (around := _LOOK_AROUND.match(self._regex, self._at)) is not None:
            self._at = around.end()
            self._choice()
            self._close()
            return _EMPTY
        found = _GROUP.match(self._regex, self._at)
        if found is None:
            raise UnknownSyntaxError
        self._at = found.end()
        flags, closing = found.groups()
        if closing == ")":
            return _known_flags(flags)
        node = self._choice()
        self._close()
        return _Flags(_known_flags(flags), node) if flags else node

    def _close(self) -> None:
        if self._peek() != ")":
            raise UnknownSyntaxError
        self._at += 1

    def _escape(self) -> _Node:
        text = self._take(_ESCAPE)
        if text == r"\b":
            return _Assertion(text)
        if text[1] in _ZERO_WIDTH:
            return _EMPTY
        if text[1] in "QE":
            raise UnknownSyntaxError
        return _Atom(_ANYTHING if text == r"\C" else text)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._regex, self._at)
        if found is None:
            raise UnknownSyntaxError
        self._at = found.end()
        return found.group()


def _most(least: str, comma: str | None, most: str | None) -> int | None:
    if comma is None:
        return int(least)
    return int(most) if most else None


def _known_flags(flags: str) -> str:
    """Keep the case flag; `s`, `m` and `U` change nothing in what is a beginning."""
    on, _, off = flags.partition("-")
    kept = ("i" if "i" in on else "") + ("-i" if "i" in off else "")
    return kept or "s"


RULES_AN_EXPRESSION: Final = 256
"""More in one, and RE2 would refuse some policies' thousands of terms."""

GAPS_AN_EXPRESSION: Final = 8
"""RE2's states multiply where rules with gaps are in one expression with others. With all rules of
`pii` and `secrets` in one, real text kept making new ones: 33 µs a look; apart, 3 and 2."""

MAX_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Of RE2's automaton, which grows with the texts it sees; some hundred kilobytes in practice."""

UNREAD: Final = r"(?s:.){0,1000}"
"""For a rule whose beginnings cannot be told: anything may be one."""


class PartialMatcher:
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
