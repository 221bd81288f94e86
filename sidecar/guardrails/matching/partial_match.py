"""Finds the end of a text that could still become a match, if more text follows.

A stream may release a byte once no match can begin at or before it any more. For every rule this
module makes an expression that matches each beginning of a match, read backwards: `abc` becomes
`(?:(?:(?:c)?b)?a)?`. One anchored match on the reversed text then gives the longest end that could
become a match. RE2 runs it in linear time. To make it, the structure of an expression
is parsed: sequence, choice, repeat, flags; the text of one character is kept as it is. An
expression that cannot be parsed holds back `UNREAD`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import re2

from sidecar.guardrails.matching.rule import Expression, Rule, compile_re2
from sidecar.guardrails.matching.text_views import CONTROLS, fold, forms_of, has_one_view

RULES_AN_EXPRESSION: Final = 256
"""More in one, and RE2 would refuse some policies' thousands of terms."""

GAPS_AN_EXPRESSION: Final = 8
"""RE2's states multiply if rules with gaps, or long ones, are in one expression with others. With
all rules of `pii` and `secrets` in one, real text kept making new ones: 50 µs a search, not 6."""

LONG_EXPRESSION: Final = 1_000
"""Characters from which an expression is searched with those that have gaps."""

MAX_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Of RE2's automaton, which grows with the texts it sees; some hundred kilobytes in practice."""

UNREAD: Final = r"(?s:.){0,1000}"
"""For a rule that cannot be parsed: any text may be the beginning of its match."""

MAX_REPEAT: Final = 1_000
"""The highest count that RE2 accepts."""

_ANYTHING: Final = r"(?s:.)"

_NEARLY_ANY: Final = ("[^", r"\S", r"\D", r"\W", _ANYTHING)

_Search = Callable[[Any, bytes, int, int], list[tuple[int, int]]]
"""Takes an anchor, a text, and where to begin and end in it; returns the span of the match."""

_AT_START: Final = re2._re2.RE2.Anchor.ANCHOR_START  # noqa: SLF001 - see `_search`

_ANYWHERE: Final = re2._re2.RE2.Anchor.UNANCHORED  # noqa: SLF001 - the same


class PartialMatcher:
    """Finds the end of a text that could still become a match of any of a policy's rules."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        known: dict[tuple[str, str | None, bool], None] = {}
        for rule in rules:
            regex, unicode = rule.expression.regex, rule.expression.unicode
            finder = rule.finder.pattern.decode("latin-1") if rule.finder is not None else ""
            if finder.startswith(f"(?:{regex})"):
                known[finder, regex, False] = None
                continue
            # Else the expression of a rule with a finder only says if the finder has to look.
            if rule.grows or not finder:
                known[rule.grows or regex, None, unicode] = None
            if finder:
                known[finder, None, unicode] = None
        of_bytes = tuple((one, opening) for one, opening, unicode in known if not unicode)
        of_text = tuple((one, opening) for one, opening, unicode in known if unicode)
        self._of_bytes = _compile(of_bytes)
        self._of_text = _compile(of_text, is_unicode=True) if of_text else None

    def begins_at(self, text: bytes, *, since: int = 0) -> int:
        """Return the start of the longest end of *text* that could become a match.

        *text* is UTF-8; its length is returned if no end of it could. *since* is the result for
        an earlier, shorter *text*: no beginning of a match is one again that has been ruled out.
        """
        is_ascii = text.isascii()
        if text.translate(None, CONTROLS) == text and (is_ascii or has_one_view(text, grows=True)):
            backwards = text[::-1]
            held = self._of_bytes.held(text, backwards, since)
            if self._of_text is not None:
                backwards = backwards if is_ascii else text.decode()[::-1].encode()
                held = max(held, self._of_text.held(text, backwards, since))
            return len(text) - held
        decoded = text.decode()
        held = self._held_bytes(decoded)
        for change in (*forms_of(decoded), *((fold,) if self._of_text is not None else ())):
            if (changed := change(decoded)) == decoded:
                continue
            # The characters at the end that make up the held bytes once changed. Those that
            # change to nothing belong to the end too, if they stand within it.
            least, size, start = self._held_bytes(changed), 0, len(decoded)
            while start and (size < least or not _changed_bytes(decoded[start - 1], change)):
                start -= 1
                size += _changed_bytes(decoded[start], change)
            held = max(held, len(decoded[start:].encode()))
        return len(text) - held

    def _held_bytes(self, decoded: str) -> int:
        text = decoded.encode()
        held = self._of_bytes.held(text, text[::-1])
        if self._of_text is None:
            return held
        return max(held, self._of_text.held(text, decoded[::-1].encode()))


class _Searches(NamedTuple):
    """The searches for beginnings of matches; `later` ones wait until an opening has occurred."""

    always: tuple[_Search, ...]
    openings: tuple[_Search, ...]
    later: tuple[_Search, ...]

    def held(self, text: bytes, backwards: bytes, since: int = 0) -> int:
        """Return how many bytes at the end of *text* could become a match that begins *since*."""
        length = len(text)
        longest, most = 0, length - since
        for search in self.always:
            end = search(_AT_START, backwards, 0, most)[0][1]
            longest = max(longest, end)
        for occurs in self.openings:
            if occurs(_ANYWHERE, text, since, length)[0][0] >= 0:
                break
        else:
            return longest
        for search in self.later:
            end = search(_AT_START, backwards, 0, most)[0][1]
            longest = max(longest, end)
        return longest


@functools.lru_cache(maxsize=16_384)
def _changed_bytes(character: str, change: Callable[[str], str]) -> int:
    """Return the bytes of one *character* once changed: each event looks at eight kilobytes."""
    return len(change(character).encode())


@functools.lru_cache(maxsize=128)
def _compile(
    regexes: tuple[tuple[str, str | None], ...], *, is_unicode: bool = False
) -> _Searches:
    """Compile expressions, some with a known opening, to few searches.

    A beginning of a match that has come to a gap has all of its opening before that, so those with
    gaps are searched only in texts with an opening.
    """
    short: list[str] = []
    long: list[str] = []
    openings: dict[str, None] = {}
    later: list[str] = []
    for regex, known_opening in regexes:
        try:
            # Optional as a whole, so that the expression always matches, if only the empty end.
            prefixes = f"(?:{reversed_prefixes(regex)})?"
            opening = known_opening
            if opening is None and has_gap(regex):
                opening = _opening(_Parser(regex).parse())
            if opening and not compile_re2(Expression(opening, unicode=is_unicode)).search(b""):
                openings[opening] = None
                later.append(prefixes)
            elif opening is not None or len(regex) >= LONG_EXPRESSION:
                long.append(prefixes)
            else:
                short.append(prefixes)
        except (UnknownSyntaxError, RecursionError):
            long.append(UNREAD)
    short += [f"(?:{reversed_prefixes(opening)})?" for opening in openings]
    grouped = [
        tuple(
            search
            for start in range(0, len(group), size)
            for search in _union(group[start : start + size], is_unicode=is_unicode)
        )
        for group, size in (
            (short, RULES_AN_EXPRESSION),
            (long, GAPS_AN_EXPRESSION),
            (list(openings), RULES_AN_EXPRESSION),
            (later, GAPS_AN_EXPRESSION),
        )
    ]
    return _Searches(grouped[0] + grouped[1], *grouped[2:])


def _search(regex: str, options: Any) -> _Search:
    """Compile *regex* to the search of the C++ object itself.

    Every chunk of a stream searches twice: through `match` and `end` of the module, which have no
    shorter way to a span, a search takes 50 steps of Python, and three times as long.
    """
    search: _Search = re2.compile(regex.encode(), options)._regexp.Match  # noqa: SLF001 - above
    return search


def _union(parts: Sequence[str], *, is_unicode: bool) -> tuple[_Search, ...]:
    """Compile *parts* as one expression, or as several if RE2 refuses that one as too large."""
    options = re2.Options()
    options.log_errors = False  # would print the expression to stderr
    options.longest_match = True
    options.never_capture = True
    options.max_mem = MAX_MEMORY_BYTES
    if not is_unicode:
        options.encoding = re2.Options.Encoding.LATIN1
    try:
        return (_search("|".join(parts), options),)
    except re2.error:
        if len(parts) == 1:
            return (_search(UNREAD, options),)
    middle = len(parts) // 2
    return (
        *_union(parts[:middle], is_unicode=is_unicode),
        *_union(parts[middle:], is_unicode=is_unicode),
    )


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
    """The expression uses syntax that is not parsed here."""


def reversed_prefixes(regex: str) -> str:
    """Return an expression for every beginning of a match of *regex*, backwards and maybe empty.

    Raises:
        UnknownSyntaxError: *regex* cannot be read.
    """
    return _prefixes(_Parser(regex).parse())


def has_gap(regex: str) -> bool:
    """Return whether *regex* counts characters of nearly any kind, as `[^0-9]{0,24}` does.

    Read backwards such a gap comes before the word that opens it, so it may begin anywhere in any
    text, and the automaton has a state for each place.

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


def _opening(node: _Node) -> str:
    """Return an expression for the part of every match before its first gap, maybe empty."""
    match node:
        case _Sequence(items):
            opening = ""
            for item in items:
                if _has_gap(item):
                    return opening + _opening(item)
                opening += _whole(item)
            return opening
        case _Choice(items):
            return "(?:" + "|".join(_opening(item) for item in items) + ")"
        case _Flags(flags, item):
            return f"(?{flags}:{_opening(item)})"
        case _Repeat() if _has_gap(node):
            return _opening(node.item) if node.least else ""
        case _:
            return _whole(node)


def _prefixes(node: _Node) -> str:
    match node:
        case _Atom(text):
            return f"{text}?"
        case _Assertion():
            return ""
        case _Sequence(items):
            # Of a, b, c: beginnings of a; all of a with those of b; of a and b with those of c.
            result = ""
            for item in reversed(items):
                match item:
                    case _Assertion() if not result:
                        pass
                    case _Atom(text) | _Assertion(text):
                        result = f"(?:{result}{text})?"
                    case _ if not result:
                        result = _prefixes(item)
                    case _:
                        result = f"(?:{result}{_reversed(item)}|{_prefixes(item)})"
            return result
        case _Choice(items):
            return "(?:" + "|".join(_prefixes(item) for item in items) + ")"
        case _Repeat(_Atom(text), _, most):
            return _repeated(text, 0, most)
        case _Repeat(item, _, most):
            whole = f"(?:{_reversed(item)})"
            before = _repeated(whole, 0, None if most is None else most - 1)
            return "" if most == 0 else f"(?:{_prefixes(item)}){before}"
        case _Flags(flags, item):
            return f"(?{flags}:{_prefixes(item)})"


def _reversed(node: _Node) -> str:
    return _whole(node, backwards=True)


def _whole(node: _Node, *, backwards: bool = False) -> str:
    match node:
        case _Atom(text) | _Assertion(text):
            return text
        case _Sequence(items):
            ordered = items[::-1] if backwards else items
            return "".join(_whole(item, backwards=backwards) for item in ordered)
        case _Choice(items):
            return "(?:" + "|".join(_whole(item, backwards=backwards) for item in items) + ")"
        case _Repeat(_Atom(text), least, most):
            return _repeated(text, least, most)
        case _Repeat(item, least, most):
            return _repeated(f"(?:{_whole(item, backwards=backwards)})", least, most)
        case _Flags(flags, item):
            return f"(?{flags}:{_whole(item, backwards=backwards)})"


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
    """Parses RE2's syntax as far as structure goes; a character's own text is kept as it is.

    Of the syntax of `re` it accepts conditions that it can leave out: look-around, possessive
    repeats.
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
            while (found := _QUANTIFIER.match(self._regex, self._at)) is not None:
                self._at = found.end()
                simple, least, comma, most = found.groups()
                if simple:
                    low, high = _SIMPLE[simple]
                else:
                    low = int(least)
                    high = int(most) if most else None if comma else low
                if max(low, high or 0) > MAX_REPEAT:
                    raise UnknownSyntaxError
                item = _Repeat(item, low, high)
            items.append(item)
        return items[0] if len(items) == 1 else _Sequence(tuple(items))

    def _item(self) -> _Node | str:
        match self._peek():
            case "(":
                return self._group()
            case "[":
                return _Atom(self._take(_CLASS))
            case "\\":
                text = self._take(_ESCAPE)
                if text[1] in "QE":
                    raise UnknownSyntaxError
                if text == r"\b":
                    return _Assertion(text)
                if text[1] in _ZERO_WIDTH:
                    return _EMPTY
                return _Atom(_ANYTHING if text == r"\C" else text)
            case "^" | "$":
                self._at += 1
                return _EMPTY
            case ".":
                self._at += 1
                return _Atom(_ANYTHING)
            case character:
                self._at += 1
                # A brace that is meant: backwards it could begin a repeat.
                return _Atom(f"\\{character}" if character in "{}" else character)

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

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._regex, self._at)
        if found is None:
            raise UnknownSyntaxError
        self._at = found.end()
        return found.group()


def _known_flags(flags: str) -> str:
    """Keep the case flag; `s`, `m` and `U` change nothing about the beginnings of matches."""
    on, _, off = flags.partition("-")
    kept = ("i" if "i" in on else "") + ("-i" if "i" in off else "")
    return kept or "s"
