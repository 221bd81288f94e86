"""Searches across the boundaries of parts that a model reads as one text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart

REACH_BYTES: Final = 512
"""Text on either side of a border: longer than what a rule looks at beside a token."""

MAX_REACH_BYTES: Final = 4_096
"""Where a word without a blank stands at the border, it is seen whole up to here: tokens that
carry claims go on for a kilobyte or two."""

EDGE_BYTES: Final = 64
"""Where a view was cut out of longer text, what begins or ends so near may be half of a word."""

_CONTINUATION: Final = range(0x80, 0xC0)
"""Second and further bytes of a UTF-8 character (RFC 3629 section 3)."""


@dataclass(frozen=True, slots=True)
class PartSlice:
    """Bytes `start` to `end` of a part, which begin at `offset` of the view they stand in."""

    offset: int
    part: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class BoundaryWindow:
    """The text around one border or several near each other."""

    content: bytes
    slices: tuple[PartSlice, ...]
    is_cut_before: bool
    is_cut_after: bool

    def located(self, finding: Finding) -> Iterator[Finding]:
        """Yield a finding in the view as findings in the parts, one a part that it touches.

        One that crosses no border and lies at a cut is no finding: what it says about the text
        before or after is not known here, and the part alone has been searched already.
        """
        pieces = [
            replace(
                finding,
                part=slice_.part,
                start=slice_.start + max(finding.start - slice_.offset, 0),
                end=min(slice_.start + finding.end - slice_.offset, slice_.end),
            )
            for slice_ in self.slices
            if finding.start < slice_.offset + slice_.end - slice_.start
            and finding.end > slice_.offset
        ]
        if len(pieces) > 1 or not self._is_at_a_cut(finding):
            yield from pieces

    def _is_at_a_cut(self, finding: Finding) -> bool:
        before = self.is_cut_before and finding.start < EDGE_BYTES
        return before or (self.is_cut_after and finding.end > len(self.content) - EDGE_BYTES)


def boundary_windows(
    parts: Sequence[TextPart], runs: Sequence[Sequence[int]]
) -> tuple[BoundaryWindow, ...]:
    """Return the text around every border within *runs*, in the order of the parts."""
    return tuple(window for run in runs for window in _seams_of(parts, run))


def _seams_of(parts: Sequence[TextPart], run: Sequence[int]) -> Iterator[BoundaryWindow]:
    texts = [parts[index].content for index in run]
    ends = tuple(accumulate(map(len, texts)))
    total, first = ends[-1], 0
    for begin, limit in _regions(texts, ends):
        while ends[first] <= begin:
            first += 1
        slices: list[PartSlice] = []
        at, pieces, offset = first, list[bytes](), 0
        while at < len(run) and (base := ends[at] - len(texts[at])) < limit:
            start, end = _whole_characters(texts[at], begin - base, limit - base)
            if start < end:
                slices.append(PartSlice(offset, run[at], start, end))
                pieces.append(texts[at][start:end])
                offset += end - start
            at += 1
        yield BoundaryWindow(b"".join(pieces), tuple(slices), begin > 0, limit < total)


def _regions(texts: Sequence[bytes], ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield what lies within reach of the borders; where two meet, both as one."""
    begin = limit = 0
    for index, border in enumerate(ends[:-1]):
        start = max(border - _word_at_end(texts[index]), 0)
        end = min(border + _word_at_start(texts[index + 1]), ends[-1])
        if limit and start > limit:
            yield begin, limit
            begin = start
        elif not limit:
            begin = start
        limit = max(limit, end)
    yield begin, limit


def _word_at_end(text: bytes) -> int:
    """Return how far before a border to look: a word at least, and what stands before it."""
    words = text[-MAX_REACH_BYTES:].rsplit(None, 1)
    return max(REACH_BYTES, len(words[-1]) if words else 0)


def _word_at_start(text: bytes) -> int:
    words = text[:MAX_REACH_BYTES].split(None, 1)
    return max(REACH_BYTES, len(words[0]) if words else 0)


def _whole_characters(text: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the range within *text*, narrowed so that it cuts no character in two."""
    start, end = max(start, 0), min(end, len(text))
    while start < end and text[start] in _CONTINUATION:
        start += 1
    while start < end < len(text) and text[end] in _CONTINUATION:
        end -= 1
    return start, end
