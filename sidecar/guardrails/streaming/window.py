"""The window of one streamed text: the part of it that is held back, with its edits."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import ClassVar, Final

import msgspec

from sidecar.domain.cooperative import SLICE_CANDIDATES, Cooperative, run_sync
from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart
from sidecar.guardrails.matching.partial_match import PartialMatcher
from sidecar.jsontext import open_strings, tokens

ROLE: Final = "assistant"

MAX_HELD_BYTES: Final = 8_192
"""The most text that is held back; a private key of 4096 bits takes 3.3 KB."""

CONTEXT_BYTES: Final = 64
"""Text kept before the settled part: rules look at a word's neighbours."""

_BEGINNING_BYTES: Final = 16
"""Room for a brace, a line break, indentation and a quote: then it is clear if a text is JSON."""

MAX_JSON_DEPTH: Final = 3
"""Levels of JSON text within a text that are unescaped."""

_HALF_ESCAPE: Final = re.compile(
    rb"(?<!\\)\\++(?:u[0-9a-fA-F]{0,3})?\Z|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z"
)
_CONTINUATION: Final = range(0x80, 0xC0)


class WindowView(TextPart, frozen=True, gc=False):
    """A text as it stands, or with the escapes resolved that JSON text has within `outer`."""

    location: tuple[int, ...] = ()
    role: str = ROLE
    outer: WindowView | None = None
    offsets: tokens.RawOffsets | None = None

    def unmap(self, start: int, end: int) -> tuple[int, int]:
        """Return the span in the text of a span in this view."""
        if self.outer is None or self.offsets is None:
            return start, end
        return self.outer.unmap(*self.offsets.raw_range(start, end))


class _UnescapedView(WindowView, frozen=True, gc=False):
    repeats: ClassVar[bool] = True


class Edit(msgspec.Struct, frozen=True, order=True, gc=False):
    """Puts `text` in the place of a span, by offsets from the start of the answer's text.

    With `is_bare` it is a number without quotes, and `text` a string of JSON text as it stands.
    """

    start: int
    end: int
    text: bytes
    is_bare: bool = False


@dataclass(slots=True, eq=False)
class StreamWindow:
    """The end of one text, as far as it is kept. All offsets are bytes from the text's start.

    Up to `settled` it is judged, and its `edits` are known: a heap, the first in the text on
    top. `buffer` begins at `base`; a long one lacks its end, `gathered`, until `gather`.
    No match that more text could complete begins before `open_from`.
    `index` is the text's number in the answer. `is_final`: nothing follows its text. `leaves`: its
    end is not to be held back. `is_document` marks JSON, as in tool arguments and
    structured answers; `opened` reopens the strings that are open where `buffer` begins.
    """

    index: int
    is_json: bool = False
    is_final: bool = False
    leaves: bool = False
    base: int = 0
    buffer: bytes = b""
    settled: int = 0
    open_from: int = 0
    edits: list[Edit] = field(default_factory=list[Edit])
    is_document: bool = False
    opened: bytes = b""
    gathered: bytearray = field(default_factory=bytearray)

    @property
    def end(self) -> int:
        """The length of the text so far."""
        return self.base + len(self.buffer) + len(self.gathered)

    @property
    def is_settled(self) -> bool:
        """Whether no text is held back."""
        return self.settled == self.end

    def add(self, text: bytes) -> int:
        """Append the next text; return the new end."""
        length = len(self.buffer)
        if length > MAX_HELD_BYTES:  # of a held answer: each event would copy all of its text
            self.gathered += text
            return self.end
        self.buffer += text
        if length <= _BEGINNING_BYTES and not (self.base or self.is_document):
            self.is_document = self.is_json or open_strings.begins_document(self.buffer)
        return self.base + length + len(text)

    def gather(self) -> None:
        """Complete `buffer`, before it is read."""
        self.buffer += self.gathered
        self.gathered.clear()

    def depths_of_numbers(
        self, spans: Iterable[tuple[int, int]], *, whole: bytes | None = None
    ) -> dict[int, int]:
        """Return, by start, the strings around each of *spans* that is a number without quotes.

        They are searched in `buffer`, or in *whole*: the whole text, if that was kept.
        """
        if not self.is_document:
            return {}
        base, text, opened = self.base, self.buffer, self.opened
        if whole is not None:
            base, text, opened = 0, whole, b""
        moved = [(start - base, end - base) for start, end in spans]
        found = open_strings.depths_of_numbers(text, moved, opened)
        return {start + base: depth for start, depth in found.items()}

    def views(self) -> list[WindowView]:
        """Return the text as it stands and, if it is JSON text, with its escapes resolved.

        A program reads a structured answer as it reads tool arguments.
        """
        return run_sync(_views(self.buffer)) if self.is_document else [WindowView(self.buffer)]

    def views_in_turns(self) -> Cooperative[list[WindowView]]:
        """Return the same, in slices."""
        return (yield from _views(self.buffer)) if self.is_document else [WindowView(self.buffer)]

    def unfinished_from(self, unfinished: PartialMatcher, views: list[WindowView]) -> int:
        """Return the start of the end that could become a match, as an offset into `buffer`."""
        if len(views) == 1:
            since = max(self.open_from - self.base, 0)
            begin = unfinished.begins_at(self.buffer, since=since)  # its only view
            self.open_from = self.base + begin
            return begin
        return self.held_from(unfinished.begins_at, views)

    def held_from(self, begins_at: Callable[[bytes], int], views: list[WindowView]) -> int:
        """Return where the text begins that *begins_at* holds back in any of *views*."""
        least = len(self.buffer)
        if self.is_document and (half := _HALF_ESCAPE.search(self.buffer)):
            # Any character may come of it, also the next one of a match before it.
            least = half.start()
            views = run_sync(_views(self.buffer[:least]))
        for view in views:
            begin = begins_at(view.content)
            if begin < len(view.content):
                least = min(least, view.unmap(begin, len(view.content))[0])
        return self.whole_units(least, least)[0]

    def whole_units(self, start: int, end: int) -> tuple[int, int]:
        """Widen a span of `buffer` so that it cuts no escape in two.

        A token of it may begin within a run of backslashes, of which it shows too few.
        """
        return tokens.whole_units(self.buffer, start, end) if self.is_document else (start, end)

    def settle(self, until: int, *, keep_from: int | None = None) -> None:
        """Mark all text before `until` as judged, and drop the text that no rule looks back at.

        `keep_from` keeps more: text that leaves early may be half of a finding.
        """
        self.settled = until = max(self.settled, until)
        start = until - CONTEXT_BYTES
        if keep_from is not None:
            start = min(start, max(keep_from, self.end - MAX_HELD_BYTES))
        cut, buffer = start - self.base, self.buffer
        if cut <= 0:
            return
        while cut < len(buffer) and buffer[cut] in _CONTINUATION:
            cut += 1
        if self.is_document:
            self.opened = open_strings.opened_after(buffer[:cut], self.opened)
        self.buffer = buffer[cut:]
        self.base += cut

    def add_edit(self, edit: Edit) -> None:
        """Note an edit of text that has not left yet."""
        heappush(self.edits, edit)

    def restore(
        self, spans: Sequence[tuple[int, int]], values: Iterable[bytes]
    ) -> Cooperative[None]:
        """Put each of *values* in the place of a span of `buffer`, in order.

        In a document it is escaped as often as strings are around it: JSON text within a string
        has strings of its own. In tool arguments one less is counted: all that is put in there is
        escaped once anyway.
        """
        opened, at = self.opened, 0
        for count, ((begin, end), value) in enumerate(zip(spans, values, strict=True), start=1):
            text = value
            if self.is_document:
                opened, at = open_strings.opened_after(self.buffer[at:begin], opened), begin
                for _ in range(opened.count(b'"') - self.is_json):
                    text = tokens.quoted(text)[1:-1]  # a quote of the value would end the string
            self.add_edit(Edit(begin + self.base, end + self.base, text))
            if not count % SLICE_CANDIDATES:
                yield

    def drop_edits(self, restored: Sequence[Edit], found: Sequence[Finding]) -> list[Finding]:
        """Return those of *found* that are not within *restored* edits; drop those they overlap.

        Both are in text order, without overlaps.
        """
        starts = [-1, *(one.start for one in restored)]
        ends = [0, *(one.end for one in restored)]
        kept = [one for one in found if one.end > ends[bisect_right(starts, one.start) - 1]]
        starts = [one.start for one in kept]
        ends = [0, *(one.end for one in kept)]
        gone = {one for one in restored if ends[bisect_left(starts, one.end)] > one.start}
        if gone:
            self.edits = [one for one in self.edits if one not in gone]
            heapify(self.edits)
        return kept

    def take_edits(self, start: int, end: int) -> list[Edit]:
        """Return the edits of the next token that leaves, by offsets into it.

        The text of an edit goes to its first token; from later tokens it only removes. An edit
        that ends with the token is dropped: each is looked at once a token that it changes.
        """
        taken: list[Edit] = []
        going_on: list[Edit] = []
        while self.edits and self.edits[0].start < end:
            edit = heappop(self.edits)
            if edit.end > end:
                going_on.append(edit)
            if edit.end > start:
                begins = edit.start >= start
                taken.append(
                    Edit(
                        max(edit.start, start) - start,
                        min(edit.end, end) - start,
                        edit.text if begins else b"",
                        is_bare=begins and edit.is_bare,
                    )
                )
        for edit in going_on:
            heappush(self.edits, edit)
        return taken


def _views(text: bytes) -> Cooperative[list[WindowView]]:
    views = [WindowView(text)]
    while b"\\" in views[-1].content and len(views) <= MAX_JSON_DEPTH:
        outer = views[-1].content
        offsets = tokens.RawOffsets(outer)
        content = yield from offsets.decoded()
        views.append(_UnescapedView(content, outer=views[-1], offsets=offsets))
    return views
