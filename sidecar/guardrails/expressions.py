"""Regular expressions a policy's author writes: checked by both engines, told what is wrong."""

from __future__ import annotations

import functools
import re
from typing import Final

import hyperscan
import re2

from sidecar.guardrails.rules.rule import Expression, compile_re2

MAX_EXPRESSION_CHARACTERS: Final = 1_000

_FEATURES: Final = (
    (re.compile(r"\(\?<?[=!]"), "look-around is not supported: RE2 runs in linear time"),
    (re.compile(r"\\[1-9]"), "back-references are not supported: RE2 runs in linear time"),
    (re.compile(r"[*+?}]\+"), "possessive repeats are not supported"),
    (re.compile(r"\(\?>"), "atomic groups are not supported"),
)


@functools.lru_cache(maxsize=16_384)
def author_expression(regex: str) -> Expression:
    """Return *regex* as the database is to know it."""
    return Expression(regex, unicode=True, filtered=not _needs_every_text(regex))


def expression_problem(regex: str) -> str | None:
    """Say what is wrong with an author's expression, or None where nothing is.

    Both engines compile it, since a text is first filtered by one and then searched by the other.
    The second may take seconds and gigabytes: `expression_check` does this in a process that may
    be lost.
    """
    problem = syntax_problem(regex)
    if problem is not None:
        return problem
    try:
        compile_hyperscan((author_expression(regex),))
    except hyperscan.error as error:
        return f"not supported by the matching engine: {str(error).rstrip('.')}"
    return None


def syntax_problem(regex: str) -> str | None:
    """Say what the searching engine finds wrong with an expression; takes a millisecond."""
    if len(regex) > MAX_EXPRESSION_CHARACTERS:
        return f"longer than {MAX_EXPRESSION_CHARACTERS} characters"
    try:
        pattern = compile_re2(author_expression(regex))
    except re2.error as error:
        return _feature(regex) or f"not RE2 syntax: {_re2_words(error)}"
    if pattern.search(b"") is not None:
        return "matches empty text, so it would match everywhere"
    return None


def compile_hyperscan(expressions: tuple[Expression, ...]) -> hyperscan.Database:
    """Compile *expressions*; the index of each is its id.

    Raises:
        hyperscan.error: one of them cannot be compiled.
    """
    database = hyperscan.Database(mode=hyperscan.HS_MODE_STREAM)
    count = len(expressions)
    database.compile(
        expressions=[expression.regex.encode() for expression in expressions],
        ids=list(range(count)),
        elements=count,
        flags=[_flags(expression) for expression in expressions],
    )
    return database


def _flags(expression: Expression) -> int:
    # One report an expression, however often an attacker repeats the match.
    once = 0 if expression.counted else hyperscan.HS_FLAG_SINGLEMATCH
    return int(once | (hyperscan.HS_FLAG_UTF8 if expression.unicode else 0))


def _needs_every_text(regex: str) -> bool:
    """Tell whether the two engines could differ on a text scanned together with others.

    Anchors mean the ends of one text to RE2 and the ends of the joined texts to Hyperscan, and
    a vertical tab is white space to Hyperscan only. Quoted runs are not worth reading apart.
    """
    in_class, position = False, 0
    while position < len(regex):
        character = regex[position]
        if character == "\\":
            escaped = regex[position + 1 : position + 2]
            if escaped in {"A", "z", "Z", "Q", "S"} or (in_class and escaped == "s"):
                return True
            position += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
            # A caret negates, and a bracket right behind is a member of the class.
            position += len(re.match(r"\^?\]?", regex[position + 1 :])[0])  # type: ignore[index]  # the pattern matches any text
        elif character in "^$":
            return True
        position += 1
    return False


def _feature(regex: str) -> str | None:
    return next((words for feature, words in _FEATURES if feature.search(regex)), None)


def _re2_words(error: Exception) -> str:
    words = error.args[0]
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
