"""Holds back the part of a stream that could still become a finding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sidecar.guardrails.matching.partial_match import PartialMatcher
from sidecar.jsontext import tokens as json_numbers
from sidecar.jsontext import tokens as json_text

MAX_HELD_BYTES: Final = 8_192
"""The longest that is held back; a private key of 4096 bits takes 3.3 KB."""

CONTEXT_BYTES: Final = 64
"""What is kept of the text before: rules look at a word's neighbours."""

MAX_JSON_DEPTH: Final = 3
"""How many times JSON text within a text is looked into."""

_HALF_ESCAPE: Final = re.compile(
    rb"\\+(?:u[0-9a-fA-F]{0,3})?\Z|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z"
)
_CONTINUATION: Final = range(0x80, 0xC0)

Unmap = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class WindowView:
    """One way to read a text; `unmap` leads from its spans back to those of the text."""

    content: bytes
    unmap: Unmap


@dataclass(frozen=True, slots=True)
class Edit:
    """Put `text` in the place of a span, by offsets from the start of the answer's text.

    `is_bare` tells that the span is a number without quotes: `text` needs some.
    """

    start: int
    end: int
    text: bytes
    is_bare: bool = False


@dataclass(slots=True, eq=False)
class Window:
    """What is at hand of one text. All offsets are bytes from the text's start.

    Up to `settled` it is judged, and its `edits` are known. `base` is where `buffer` begins.
    `index` tells it from the answer's other texts. `is_document` tells that it is JSON, as tool
    arguments and structured answers are; `opened` is the quote that is open where `buffer` begins.
    """

    index: int
    is_json: bool = False
    base: int = 0
    buffer: bytes = b""
    settled: int = 0
    edits: list[Edit] = field(default_factory=list[Edit])
    is_document: bool = False
    opened: bytes = b""

    @property
    def end(self) -> int:
        """How long the text is so far."""
        return self.base + len(self.buffer)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits."""
        return self.settled == self.end

    def add(self, text: bytes) -> None:
        """Take the next piece."""
        if not self.end:
            self.is_document = self.is_json or text.lstrip().startswith(b"{")
        self.buffer += text

    def bare_numbers(
        self, starts: Iterable[int], *, whole: bytes | None = None
    ) -> dict[int, json_text.Token]:
        """Return the numbers without quotes that begin at some of *starts*, by these.

        They are looked for in `buffer`, or in *whole*: the whole text, where that was kept.
        """
        if not self.is_document:
            return {}
        base, text, opened = self.base, self.buffer, self.opened
        if whole is not None:
            base, text, opened = 0, whole, b""
        found = json_numbers.bare_numbers(text, [start - base for start in starts], opened=opened)
        return {
            start + base: json_text.Token(start + base, token.end + base)
            for start, token in found.items()
            if token.start == start
        }

    def views(self) -> list[WindowView]:
        """Return the text as it stands and, where it is JSON text, as its escapes mean it."""
        return _views(self.buffer) if self.is_json else [WindowView(self.buffer, _same)]

    def unfinished_from(self, unfinished: PartialMatcher, views: list[WindowView]) -> int:
        """Return where what could still be found begins, as an offset into `buffer`."""
        least = len(self.buffer)
        if self.is_json and (half := _HALF_ESCAPE.search(self.buffer)):
            # Whatever it will mean may be the next character of what stands before it.
            least = half.start()
            views = _views(self.buffer[:least])
        for view in views:
            begin = unfinished.begins_at(view.content)
            if begin < len(view.content):
                least = min(least, view.unmap(begin, len(view.content))[0])
        return least

    def settle(self, until: int, *, keep_from: int | None = None) -> None:
        """Note that all before `until` is judged, and let go of what no rule looks back at.

        `keep_from` keeps more: what leaves early may still turn out to be half of a finding.
        """
        self.settled = max(self.settled, until)
        start = max(self.settled - CONTEXT_BYTES, self.base)
        if keep_from is not None:
            start = min(start, max(keep_from, self.end - MAX_HELD_BYTES))
        cut = max(start - self.base, 0)
        while cut < len(self.buffer) and self.buffer[cut] in _CONTINUATION:
            cut += 1
        if cut:
            if self.is_document:
                self.opened = json_numbers.opened_after(self.buffer[:cut], self.opened)
            self.buffer = self.buffer[cut:]
            self.base += cut

    def edits_of(self, start: int, end: int) -> Iterator[Edit]:
        """Yield the edits of one piece of the text, by offsets into it.

        What an edit puts in stands where it begins; from later pieces it only takes away.
        """
        for edit in self.edits:
            if edit.start < end and edit.end > start:
                begins = edit.start >= start
                yield Edit(
                    max(edit.start, start) - start,
                    min(edit.end, end) - start,
                    edit.text if begins else b"",
                    is_bare=begins and edit.is_bare,
                )

    def forget_edits(self, until: int) -> None:
        """Let go of the edits of what has left."""
        if self.edits:
            self.edits = [edit for edit in self.edits if edit.end > until]


def _views(text: bytes) -> list[WindowView]:
    views = [WindowView(text, _same)]
    while b"\\" in views[-1].content and len(views) <= MAX_JSON_DEPTH:
        views.append(_unescaped(views[-1]))
    return views


def _same(start: int, end: int) -> tuple[int, int]:
    return start, end


def _unescaped(outer: WindowView) -> WindowView:
    offsets = json_text.OffsetMap(outer.content)

    def unmap(start: int, end: int) -> tuple[int, int]:
        return outer.unmap(*offsets.raw_range(start, end))

    return WindowView(json_text.decode(outer.content), unmap)
