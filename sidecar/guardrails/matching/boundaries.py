"""Searches across the boundaries of parts that a model reads as one text.

A value that a boundary cuts in two is in neither part. So the text around each boundary
is searched once more, as a window of its own, and findings there are mapped back to the parts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import Final

from msgspec import structs

from sidecar.domain.cooperative import SLICE_FINDINGS, Cooperative
from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart

REACH_BYTES: Final = 512
"""Text on either side of a boundary: longer than the text that a rule looks at beside a token."""

MAX_REACH_BYTES: Final = 4_096
"""A word without a blank at the boundary is searched whole up to here: tokens that carry claims
have a kilobyte or two."""

EDGE_BYTES: Final = 64
"""In a window cut out of longer text, a finding that begins or ends so near to the cut may be half
of a word."""

_CONTINUATION: Final = range(0x80, 0xC0)
"""Second and further bytes of a UTF-8 character (RFC 3629 section 3)."""


@dataclass(frozen=True, slots=True)
class PartSlice:
    """Bytes `start` to `end` of a part, which begin at `offset` of their window."""

    offset: int
    part: int
    start: int
    end: int


_offset_of: Final = attrgetter("offset")


@dataclass(frozen=True, slots=True)
class BoundaryWindow:
    """The text around one boundary or several near each other; `slices` are all of it, in turn."""

    content: bytes
    slices: tuple[PartSlice, ...]
    is_cut_before: bool
    is_cut_after: bool

    def located(self, finding: Finding) -> Sequence[Finding]:
        """Return a finding in the window as findings in the parts, one a part that it touches.

        One that crosses no boundary and lies at a cut is dropped: the text behind the cut is not
        in the window, and the part alone has been searched already.
        """
        first = max(bisect_right(self.slices, finding.start, key=_offset_of) - 1, 0)
        last = bisect_left(self.slices, finding.end, key=_offset_of)
        found = [
            structs.replace(
                finding,
                part=one.part,
                start=one.start + max(finding.start - one.offset, 0),
                end=min(one.start + finding.end - one.offset, one.end),
            )
            for one in self.slices[first:last]
        ]
        is_at_a_cut = (self.is_cut_before and finding.start < EDGE_BYTES) or (
            self.is_cut_after and finding.end > len(self.content) - EDGE_BYTES
        )
        return found if len(found) > 1 or not is_at_a_cut else ()


def boundary_windows(
    parts: Sequence[TextPart], runs: Sequence[Sequence[int]]
) -> Cooperative[tuple[BoundaryWindow, ...]]:
    """Return the text around every boundary within *runs*, in the order of the parts."""
    windows: list[BoundaryWindow] = []
    for count, run in enumerate(runs, start=1):
        texts = [parts[index].content for index in run]
        ends = tuple(accumulate(map(len, texts)))
        first = 0
        for begin, limit in (yield from _regions(texts, ends)):
            while ends[first] <= begin:
                first += 1
            slices: list[PartSlice] = []
            contents: list[bytes] = []
            at, offset = first, 0
            while at < len(run) and (base := ends[at] - len(texts[at])) < limit:
                text = texts[at]
                start, end = max(begin - base, 0), min(limit - base, len(text))
                # Narrowed so that it cuts no character in two.
                while start < end and text[start] in _CONTINUATION:
                    start += 1
                while start < end < len(text) and text[end] in _CONTINUATION:
                    end -= 1
                if start < end:
                    slices.append(PartSlice(offset, run[at], start, end))
                    contents.append(text[start:end])
                    offset += end - start
                at += 1
                if not at % SLICE_FINDINGS:
                    yield
            content = b"".join(contents)
            windows.append(BoundaryWindow(content, tuple(slices), begin > 0, limit < ends[-1]))
        if not count % SLICE_FINDINGS:
            yield
    return tuple(windows)


def _regions(
    texts: Sequence[bytes], ends: Sequence[int]
) -> Cooperative[Sequence[tuple[int, int]]]:
    """Return the ranges within reach of the boundaries, two that meet as one.

    The reach is `REACH_BYTES`, or the whole word at the boundary if that is longer.
    """
    regions: list[tuple[int, int]] = []
    begin = limit = 0
    for index, boundary in enumerate(ends[:-1]):
        if index and not index % SLICE_FINDINGS:
            yield
        before = texts[index][-MAX_REACH_BYTES:].rsplit(None, 1)[-1:]
        after = texts[index + 1][:MAX_REACH_BYTES].split(None, 1)[:1]
        start = max(boundary - max((REACH_BYTES, *map(len, before))), 0)
        end = min(boundary + max((REACH_BYTES, *map(len, after))), ends[-1])
        if limit and start > limit:
            regions.append((begin, limit))
            begin = start
        elif not limit:
            begin = start
        limit = max(limit, end)
    regions.append((begin, limit))
    return regions
