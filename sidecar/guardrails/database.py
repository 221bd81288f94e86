"""The compiled database: all expressions of all policies, scanned in one pass.

Imports little: a process of its own compiles with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Final

import hyperscan

from sidecar.guardrails.controls import CONTROLS_BUT_NUL
from sidecar.guardrails.expressions import compile_hyperscan
from sidecar.guardrails.rules.rule import Expression
from sidecar.guardrails.slices import SLICE_BYTES, Steps

_ANY_CONTROL: Final = b"[" + b"".join(b"\\x%02x" % code for code in CONTROLS_BUT_NUL) + b"]"

_TABLE_BYTES: Final = 512
"""Up to here one look through a table is faster; of 100 KB it takes 50 µs, Hyperscan 6."""

_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class CompileError(ValueError):
    """Policies whose expressions make no database; the message repeats none of them."""


SEPARATOR: Final = b"\x00"
"""Between texts: no word character, no white space, and valid UTF-8, which Hyperscan needs."""

Hits = dict[int, list[int]]
"""Ids of what matches, each with the end of its first match or, if counted, of every match."""


class ExpressionDatabase:
    """Tells which expressions occur in a text. Bound to one thread: the scratch space is one."""

    def __init__(self, database: hyperscan.Database | None) -> None:
        self._database = database
        self._controls: hyperscan.Database | None = None

    def has_controls(self, content: bytes) -> bool:
        """Tell whether there is a control character other than NUL, white space left aside.

        By a database of its own: among all expressions, this one would make the pass over a long
        text seven times slower.
        """
        if len(content) <= _TABLE_BYTES:
            return content.translate(None, CONTROLS_BUT_NUL) != content
        if self._controls is None:
            self._controls = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
            self._controls.compile(
                expressions=[_ANY_CONTROL],
                ids=[0],
                elements=1,
                flags=[hyperscan.HS_FLAG_SINGLEMATCH],
            )
        hits: Hits = {}
        self._controls.scan(content, match_event_handler=_collect, context=hits)
        return bool(hits)

    def scan(self, texts: Sequence[bytes]) -> Steps[Hits]:
        """Return what matches in *texts* with `SEPARATOR` between them, read as one stream.

        They must be UTF-8: Hyperscan's code-point mode is undefined on anything else.
        """
        if sum(map(len, texts)) <= SLICE_BYTES:
            return self.scan_short(SEPARATOR.join(texts))
        hits: Hits = {}
        if self._database is None:
            return hits
        with self._database.stream(match_event_handler=_collect, context=hits) as stream:
            for index, text in enumerate(texts):
                stream.scan(SEPARATOR + text[:SLICE_BYTES] if index else text[:SLICE_BYTES])
                yield
                for start in range(SLICE_BYTES, len(text), SLICE_BYTES):
                    stream.scan(text[start : start + SLICE_BYTES])
                    yield
        return hits

    def scan_short(self, joined: bytes) -> Hits:
        """Return what `scan` does of texts that are joined by `SEPARATOR`, and take one slice."""
        hits: Hits = {}
        if self._database is not None:
            with self._database.stream(match_event_handler=_collect, context=hits) as stream:
                stream.scan(joined)
        return hits


def _collect(id_: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.setdefault(id_, []).append(end)  # type: ignore[attr-defined]  # the stub has `object`; it is the dict of `scan`


def compile_expressions(expressions: tuple[Expression, ...]) -> bytes:
    """Return a digest of *expressions* and their compiled database.

    Raises:
        hyperscan.error: an expression cannot be compiled.
    """
    if not expressions:
        return _digest(expressions)
    return _digest(expressions) + hyperscan.dumpb(compile_hyperscan(expressions))


def load_database(serialised: bytes, expressions: tuple[Expression, ...]) -> ExpressionDatabase:
    """Load what `compile_expressions` made, in well under a millisecond.

    Raises:
        CompileError: it was made from other expressions, or by another version of the engine.
    """
    if serialised[:_DIGEST_BYTES] != _digest(expressions):
        raise CompileError("the database was compiled from other policies")
    if not expressions:
        return ExpressionDatabase(None)
    try:
        database = hyperscan.loadb(serialised[_DIGEST_BYTES:], hyperscan.HS_MODE_STREAM)
        database.scratch = hyperscan.Scratch(database)  # a loaded one comes without
    except hyperscan.error:
        raise CompileError("the database was compiled by another engine version") from None
    return ExpressionDatabase(database)


def _digest(expressions: tuple[Expression, ...]) -> bytes:
    return hashlib.sha256(json.dumps(list(_keys(expressions))).encode()).digest()


def _keys(expressions: tuple[Expression, ...]) -> Iterator[tuple[str, bool, bool]]:
    return ((one.regex, one.unicode, one.counted) for one in expressions)
