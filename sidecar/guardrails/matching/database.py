"""Compiles the regular expressions of a policy into one Hyperscan database, and scans with it.

A text is first filtered by Hyperscan, which reports the expressions that occur in it in one pass
over all of them; only those are then searched by RE2, which returns spans (`rule.py`). So an
author's expression must mean the same to both engines, or is not filtered.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import pickle
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, repeat
from typing import Final

import hyperscan
import re2

from sidecar.domain.cooperative import SHORT_BYTES, SLICE_BYTES, SLICE_PARTS, Cooperative
from sidecar.guardrails.matching.rule import Expression, compile_re2
from sidecar.guardrails.matching.text_views import CONTROLS, TextView, has_one_view

SEPARATOR: Final = b"\x00"
"""Between texts: no word character, no white space, and valid UTF-8, which Hyperscan needs."""

CONTROLS_BUT_NUL: Final = CONTROLS[1:]
"""Those to look for in texts that NUL separates."""

_ANY_CONTROL: Final = "[" + "".join(f"\\x{code:02x}" for code in CONTROLS_BUT_NUL) + "]"

_TABLE_BYTES: Final = 512
"""Up to here one search by a table is faster; of 100 KB it takes 50 µs, Hyperscan 6."""

MAX_SEARCHES: Final = 32_768
"""Expressions that match, times texts; of more, each text is filtered by itself: 1,000 terms in
12,000 strings took a minute."""

_DIGEST_BYTES: Final = hashlib.sha256().digest_size

Hits = dict[int, list[int]]
"""Ids of expressions that match, each with the end of its first match or, if counted, of every
match."""


class ExpressionDatabase:
    """Finds which expressions occur in a text. Bound to one thread: the scratch space is one.

    It has expressions that were compiled together, or those of `others` beside its own, which
    were compiled apart.
    """

    def __init__(
        self,
        database: hyperscan.Database | None,
        expressions: Sequence[Expression] = (),
        others: Sequence[tuple[int, ExpressionDatabase]] = (),
    ) -> None:
        """*database* has *expressions*; *others* have their first id, and none has others."""
        self._database = database
        self.expressions = expressions
        self._others = others

    @property
    def ids(self) -> Mapping[Expression, int]:
        """Return the id of each expression: its own index, or that behind the databases before."""
        ids = {one: index for index, one in enumerate(self.expressions)}
        for first, other in self._others:
            for index, one in enumerate(other.expressions, start=first):
                ids.setdefault(one, index)
        return ids

    def beside(self, others: Sequence[ExpressionDatabase]) -> ExpressionDatabase:
        """Return a database that finds the expressions of *others* too; nothing is compiled."""
        if not others:
            return self
        firsts = accumulate(map(len, (self.expressions, *(one.expressions for one in others))))
        numbered = tuple(zip(firsts, others, strict=False))
        return ExpressionDatabase(self._database, self.expressions, numbered)

    def of(self, expressions: Collection[Expression]) -> ExpressionDatabase:
        """Return a database that finds at least *expressions*, by their ids here.

        Those that were compiled apart from all of them are left out.
        """
        wanted = frozenset(expressions)
        database = None if wanted.isdisjoint(self.expressions) else self._database
        others = [one for one in self._others if not wanted.isdisjoint(one[1].expressions)]
        return ExpressionDatabase(database, self.expressions, others)

    def scan(self, texts: Sequence[bytes]) -> Cooperative[Hits]:
        """Return the matches in *texts* with `SEPARATOR` between them, read as one stream.

        They must be UTF-8: Hyperscan's code-point mode is undefined on anything else.
        """
        return self.scan_joined(SEPARATOR.join(texts))

    def scan_joined(self, joined: bytes) -> Cooperative[Hits]:
        """Return the matches in texts that `SEPARATOR` joins, a slice at a time."""
        if len(joined) <= SLICE_BYTES:
            return self.scan_short(joined)
        hits: Hits = {}
        if self._database is not None:
            with self._database.stream(match_event_handler=_collect, context=hits) as stream:
                for start in range(0, len(joined), SLICE_BYTES):
                    stream.scan(joined[start : start + SLICE_BYTES])
                    yield
        for first, other in self._others:
            for index, ends in (yield from other.scan_joined(joined)).items():
                hits[first + index] = ends
        return hits

    def places(self, views: Sequence[TextView]) -> Cooperative[Mapping[int, Sequence[int]]]:
        """Return in which *views* each expression matches."""
        places: dict[int, list[int]] = {}
        for index, view in enumerate(views, start=1):
            hits = yield from self.scan_joined(view.content)
            for id_ in hits:
                places.setdefault(id_, []).append(index - 1)
            if not index % SLICE_PARTS:
                yield
        return places

    def scan_short(self, joined: bytes) -> Hits:
        """Return the matches in texts that `SEPARATOR` joins and that take one slice."""
        hits: Hits = {}
        if self._database is not None:
            # The handler, no flags, and its context: by keywords, a call takes 0.2 µs longer.
            with self._database.stream(_collect, 0, hits) as stream:
                stream.scan(joined)
        for first, other in self._others:
            for index, ends in other.scan_short(joined).items():
                hits[first + index] = ends
        return hits

    def have_one_view(self, texts: Sequence[bytes], joined: bytes) -> bool:
        """Return whether every view of each of *texts*, which `SEPARATOR` joins, is the same.

        Long text beyond ASCII is left to `views_of`, which looks at it in slices.

        Raises:
            UnicodeDecodeError: short text is not UTF-8.
        """
        return (
            (joined.isascii() or (len(joined) <= SHORT_BYTES and has_one_view(joined)))
            and not any(map(operator.contains, texts, repeat(SEPARATOR)))
            and not self.has_controls(joined)
        )

    def has_controls(self, content: bytes) -> bool:
        """Return whether there is a control character other than NUL and white space.

        It has a database of its own: among all expressions, this one would make the pass over a
        long text seven times slower.
        """
        if len(content) <= _TABLE_BYTES:
            return content.translate(None, CONTROLS_BUT_NUL) != content
        hits: Hits = {}
        controls_database().scan(content, _collect, 0, hits)
        return bool(hits)


@functools.cache
def controls_database() -> hyperscan.Database:
    """Return the database of control characters, compiled once a process."""
    return compile_hyperscan((Expression(_ANY_CONTROL),), mode=hyperscan.HS_MODE_BLOCK)


def _collect(id_: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.setdefault(id_, []).append(end)  # type: ignore[attr-defined]  # the stub has `object`; it is the dict of `scan`


class CompileError(ValueError):
    """Policies whose expressions make no database; the message repeats none of them."""


def compile_expressions(expressions: tuple[Expression, ...]) -> bytes:
    """Compile *expressions* for `load_database`, which another process may call.

    Raises:
        hyperscan.error: an expression cannot be compiled.
    """
    databases = [compile_hyperscan(expressions)] if expressions else []
    return dump_hyperscan(databases, digest=_digest(expressions))


def load_database(serialised: bytes, expressions: tuple[Expression, ...]) -> ExpressionDatabase:
    """Load a database that `compile_expressions` made, in well under a millisecond.

    Raises:
        CompileError: it was made from other expressions, or by another version of the engine.
    """
    found = load_hyperscan(serialised, digest=_digest(expressions))
    return ExpressionDatabase(found[0] if found else None, expressions)


def _digest(expressions: tuple[Expression, ...]) -> bytes:
    keys = [(one.regex, one.unicode, one.counted) for one in expressions]
    return hashlib.sha256(json.dumps(keys).encode()).digest()


def compile_hyperscan(
    expressions: Sequence[Expression],
    *,
    ids: Sequence[int] | None = None,
    mode: int = hyperscan.HS_MODE_STREAM,
) -> hyperscan.Database:
    """Compile *expressions*; without *ids* the index of each is its id.

    Raises:
        hyperscan.error: one of them cannot be compiled.
    """
    flags: list[int] = []
    for expression in expressions:
        # One report an expression, however often an attacker repeats the match.
        once = 0 if expression.counted else hyperscan.HS_FLAG_SINGLEMATCH
        flags.append(int(once | (hyperscan.HS_FLAG_UTF8 if expression.unicode else 0)))
    database = hyperscan.Database(mode=mode)
    database.compile(
        expressions=[expression.regex.encode() for expression in expressions],
        ids=list(range(len(expressions)) if ids is None else ids),
        elements=len(expressions),
        flags=flags,
    )
    return database


def dump_hyperscan(databases: Iterable[hyperscan.Database], *, digest: bytes) -> bytes:
    """Return *databases* for `load_hyperscan`, behind the *digest* of their expressions."""
    return digest + pickle.dumps([hyperscan.dumpb(one) for one in databases])


def load_hyperscan(
    dumped: bytes, *, digest: bytes, mode: int = hyperscan.HS_MODE_STREAM
) -> list[hyperscan.Database]:
    """Load databases that were compiled in this *mode* by another process of ours.

    Raises:
        CompileError: they are of other expressions or another version of the engine, or cut short.
    """
    if dumped[:_DIGEST_BYTES] != digest:
        raise CompileError("the database was compiled from other policies")
    try:
        found = [hyperscan.loadb(one, mode) for one in pickle.loads(dumped[_DIGEST_BYTES:])]  # noqa: S301
        for one in found:
            one.scratch = hyperscan.Scratch(one)  # a loaded one comes without
    except (hyperscan.error, pickle.UnpicklingError, EOFError):
        raise CompileError("the database was compiled by another engine version") from None
    return found


MAX_EXPRESSION_CHARACTERS: Final = 1_000

_FEATURES: Final = (
    (re.compile(r"\(\?<?[=!]"), "look-around is not supported: RE2 runs in linear time"),
    (re.compile(r"\\[1-9]"), "back-references are not supported: RE2 runs in linear time"),
    (re.compile(r"[*+?}]\+"), "possessive repeats are not supported"),
    (re.compile(r"\(\?>"), "atomic groups are not supported"),
)


def expression_problem(regex: str) -> str | None:
    """Return the problem with an author's expression, None if there is none.

    Both engines compile it, since a text is first filtered by one and then searched by the other.
    The second may take seconds and gigabytes: `policy/compilation.py` does this in a process
    that may be lost.
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
    """Return the problem that RE2 has with an expression; takes a millisecond."""
    if len(regex) > MAX_EXPRESSION_CHARACTERS:
        return f"longer than {MAX_EXPRESSION_CHARACTERS} characters"
    try:
        pattern = compile_re2(author_expression(regex))
    except re2.error as error:
        for feature, words in _FEATURES:
            if feature.search(regex):
                return words
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        return f"not RE2 syntax: {text}"
    if pattern.search(b"") is not None:
        return "matches empty text, so it would match everywhere"
    return None


_CASELESS: Final = re.compile(r"\(\?[A-Za-z]*i")
_BEYOND_LATIN: Final = re.compile(
    r"[^\x00-\u024f\u2e80-\ua4cf\uac00-\ud7af]"  # the others have no case
    r"|[\x00-\u024f]-[^\x00-\u024f]"
    r"|\\x\{0*(?:[1-9a-fA-F][0-9a-fA-F]{3,}|[3-9a-fA-F][0-9a-fA-F]{2}|2[5-9a-fA-F][0-9a-fA-F])\}"
)
"""Letters that Hyperscan may fold otherwise than RE2: of the Latin ones up to U+024F none."""


@functools.lru_cache(maxsize=16_384)
def author_expression(regex: str) -> Expression:
    """Return an author's *regex* as an expression, filtered by the database if that is safe.

    It is not if the two engines could differ on a text that is scanned together with others.
    Anchors mean the ends of one text to RE2 and the ends of the joined texts to Hyperscan, and
    a vertical tab is white space to Hyperscan only. Hyperscan's tables of Unicode's properties
    and cases are older than RE2's. Quoted runs are not worth reading apart.
    """
    if _CASELESS.search(regex) and _BEYOND_LATIN.search(regex):
        return Expression(regex, unicode=True, filtered=False)
    in_class, position = False, 0
    while position < len(regex):
        character = regex[position]
        if character == "\\":
            escaped = regex[position + 1 : position + 2]
            if escaped in {"A", "z", "Z", "Q", "S", "p", "P"} or (in_class and escaped == "s"):
                return Expression(regex, unicode=True, filtered=False)
            position += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
            # A caret negates, and a bracket right behind is a member of the class.
            position += len(re.match(r"\^?\]?", regex[position + 1 :])[0])  # type: ignore[index]  # the pattern matches any text
        elif character in "^$":
            return Expression(regex, unicode=True, filtered=False)
        position += 1
    return Expression(regex, unicode=True)
