"""The way back from a changed reading of a text to the bytes it came from."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, Protocol

from typing_extensions import override

ByteSpan = tuple[int, int]


class Origin(Protocol):
    """Knows where the bytes of a reading come from."""

    def span(self, start: int, end: int) -> ByteSpan:
        """Return where bytes *start* to *end* come from; rather too much than too little."""
        ...


class Same(Origin):
    """A reading that is the text itself, byte for byte."""

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        return start, end


SAME: Final = Same()


class Table(Origin):
    """A reading in units: where each ends there, and where in the original."""

    def __init__(self, changed: Sequence[int], original: Sequence[int]) -> None:
        """Take the lengths in bytes of each unit, changed and in the original."""
        self._changed_ends = list(accumulate(changed))
        self._original_ends = list(accumulate(original))

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        first = bisect_right(self._changed_ends, start)
        last = bisect_left(self._changed_ends, end)
        if self._changed_ends[last] == end:  # with what stands unseen behind it
            last = bisect_right(self._changed_ends, end) - 1
        return (self._original_ends[first - 1] if first else 0), self._original_ends[last]


MAX_TABLES: Final = 64
"""Chunks whose way back is kept: rules go through a text in order."""


class Chunked(Origin):
    """A reading made chunk by chunk, of which only those with findings are looked at closely."""

    def __init__(
        self,
        original: bytes,
        table: Callable[[str], Table],
        *,
        changed: Sequence[bytes],
        lengths: Sequence[int],
    ) -> None:
        """Take each chunk as changed, and its length in bytes in the original."""
        self._original = original
        self._table = table
        self._changed_ends = list(accumulate(map(len, changed)))
        self._original_ends = list(accumulate(lengths))
        self._tables: dict[int, Table] = {}

    @override
    def span(self, start: int, end: int) -> ByteSpan:
        first = bisect_right(self._changed_ends, start)
        last = bisect_left(self._changed_ends, end)
        begin, _ = self._within(first, start, start + 1)
        _, stop = self._within(last, end - 1, end)
        return begin, stop

    def _within(self, chunk: int, start: int, end: int) -> ByteSpan:
        changed_start = self._changed_ends[chunk - 1] if chunk else 0
        original_start = self._original_ends[chunk - 1] if chunk else 0
        table = self._tables.get(chunk)
        if table is None:
            if len(self._tables) >= MAX_TABLES:
                self._tables.clear()
            original = self._original[original_start : self._original_ends[chunk]].decode()
            table = self._tables[chunk] = self._table(original)
        begin, stop = table.span(start - changed_start, end - changed_start)
        return original_start + begin, original_start + stop
