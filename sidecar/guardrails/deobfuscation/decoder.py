"""Decoders: from a text to the text that it hides."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import override

from sidecar.guardrails.cooperative import SLICE_BYTES, Cooperative
from sidecar.guardrails.matching.database import SEPARATOR
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.matching.text_views import ByteSpan, OffsetMap, TextView, ViewKind

REACH_BYTES: Final = 2_048
"""Text on either side of a hidden run that is read with it; what is found is seldom longer."""

SLICE_RUNS: Final = 512
"""Hidden runs read between two interruptions: a millisecond or less."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """One way to read hidden text.

    `trigger` is an expression of the shared database that occurs in every text with something to
    decode. `applies` looks closer, at one text, and decides alone for a decoder without a trigger.
    `ascii` is False for a decoder that changes nothing in ASCII text.
    """

    read: Callable[[TextView], Cooperative[tuple[TextView, ...]]]
    applies: Callable[[bytes], bool]
    trigger: Expression | None = None
    ascii: bool = True


def matches(
    expression: Any, content: bytes, *, least: int, likely: Any = None
) -> Iterator[Any | None]:
    """Yield the matches of *expression*, and None wherever work may be interrupted.

    *likely* finds wherever *expression* might, at a tenth of its cost.
    It is searched in windows. What ends within *least* bytes of one is matched anew, without an
    end; *least* bytes of a match are enough for the expression to match.
    """
    position, count = 0, 0
    while position < len(content):
        limit = min(len(content), position + SLICE_BYTES)
        next_position = limit if limit == len(content) else limit - least
        is_likely = likely is None or likely.search(content, position, limit) is not None
        for found in expression.finditer(content, position, limit) if is_likely else ():
            match = found
            if found.end() > limit - least:
                match = expression.match(content, found.start()) or found
            yield match
            count += 1
            if not count % SLICE_RUNS:
                yield None
            next_position = max(next_position, match.end())
            if match.end() >= limit:
                break
        position = next_position
        yield None


class Runs:
    """A text in the making: what was hidden in runs, and what stood around them."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._texts: list[bytes] = []
        self._starts: list[int] = []
        self._origins: list[tuple[int, int, bool]] = []
        self._length = 0
        self._at = 0

    def __bool__(self) -> bool:
        """Tell whether there is any text."""
        return bool(self._texts)

    def add(self, text: bytes, start: int, end: int) -> None:
        """Add what the run from *start* to *end* says."""
        self._put(text, (start, end, False))
        self._at = end

    def add_up_to(self, end: int) -> None:
        """Add what stands between the last run and *end* as it is, its middle left out if long."""
        start = self._at
        if end - start > 2 * REACH_BYTES:
            if self._texts:
                stop = self._boundary(start + REACH_BYTES)
                self._put(self._content[start:stop], (start, stop, True))
            start = self._boundary(end - REACH_BYTES)
            if self._texts:
                self._put(SEPARATOR, (start, start, False))
        self._put(self._content[start:end], (start, end, True))
        self._at = end

    def add_rest(self) -> None:
        """Add what stands behind the last run."""
        end = min(len(self._content), self._boundary(self._at + REACH_BYTES))
        self._put(self._content[self._at : end], (self._at, end, True))
        self._at = end

    def _boundary(self, at: int) -> int:
        """Return where a character begins, at or behind *at*."""
        while at < len(self._content) and self._content[at] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8
            at += 1
        return at

    def as_view(self, source: TextView, view: ViewKind) -> TextView:
        """Return the text as a view that leads back through *source*."""
        offsets = _RunsMap(self._starts, self._origins, self._length, source.offsets)
        content = valid_utf8(b"".join(self._texts))
        kinds = frozenset({view, ViewKind.FOLDED})
        return TextView(source.part, kinds, content, source.length, offsets)

    def _put(self, text: bytes, offsets: tuple[int, int, bool]) -> None:
        if text:
            self._texts.append(text)
            self._starts.append(self._length)
            self._origins.append(offsets)
            self._length += len(text)


class _RunsMap(OffsetMap):
    """The way back by stretches: literal ones byte for byte, hidden ones only as a whole."""

    def __init__(
        self,
        starts: list[int],
        origins: list[tuple[int, int, bool]],
        length: int,
        below: OffsetMap,
    ) -> None:
        self._starts = [*starts, length]
        self._origins = origins
        self._below = below

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        first = bisect_right(self._starts, start, hi=len(self._origins)) - 1
        last = bisect_left(self._starts, end, hi=len(self._origins)) - 1
        begin, _, is_literal = self._origins[first]
        if is_literal:
            begin += start - self._starts[first]
        _, stop, is_literal = self._origins[last]
        if is_literal:
            stop -= self._starts[last + 1] - end
        return self._below.span(begin, stop)


class ComposedMap(OffsetMap):
    """The way back through two decoders."""

    def __init__(self, above: OffsetMap, below: OffsetMap) -> None:
        self._above = above
        self._below = below

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        return self._below.span(*self._above.span(start, end))


def valid_utf8(content: bytes) -> bytes:
    """Return *content* with `?` for every byte that is no UTF-8: the engine needs it to be."""
    if content.isascii():
        return content
    text = content.decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "replace")  # a surrogate stands for one byte, and becomes one
