"""What is left of texts once findings are taken out, and the way back to where it stood.

`bob@example.com4111 1111 1111 1111` is an address with letters and digits behind it. Taken out,
the address leaves a card number behind that was none before: so what is left is looked at again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart

STAND_IN: Final = b"[]"
"""In the place of what is taken out: the ends of any placeholder, and nothing that means much."""

PartSpans = Mapping[int, Sequence[tuple[int, int]]]
"""Spans of each part, by its index: in order, of which no two overlap."""


@dataclass(frozen=True, slots=True)
class Remainder:
    """A part without what was taken out of it; `ends` are where the stand-ins end."""

    part: int
    content: bytes
    spans: tuple[tuple[int, int], ...]
    ends: tuple[int, ...]

    def located(self, finding: Finding) -> Finding | None:
        """Return where a finding stands in the part; None for one within a stand-in."""
        start, is_taken = self._origin(finding.start)
        last, ends_taken = self._origin(finding.end - 1)
        if is_taken and ends_taken and start == last:
            return None
        return replace(
            finding,
            part=self.part,
            start=self.spans[start][0] if is_taken else start,
            end=self.spans[last][1] if ends_taken else last + 1,
        )

    def _origin(self, offset: int) -> tuple[int, bool]:
        """Return the offset in the part, or the number of the span whose stand-in it is in."""
        index = bisect_right(self.ends, offset)
        if index < len(self.ends) and offset >= self.ends[index] - len(STAND_IN):
            return index, True
        if not index:
            return offset, False
        return self.spans[index - 1][1] + offset - self.ends[index - 1], False


def remainders(
    parts: Sequence[TextPart], runs: Sequence[Sequence[int]], taken: PartSpans
) -> tuple[tuple[Remainder, ...], tuple[tuple[int, ...], ...]]:
    """Return what is left of the parts that something is taken out of, and of their runs."""
    touched = [run for run in runs if not taken.keys().isdisjoint(run)]
    indexes = sorted(taken.keys() | {index for run in touched for index in run})
    places = {index: place for place, index in enumerate(indexes)}
    left = tuple(
        _remainder(index, parts[index].content, taken.get(index, ())) for index in indexes
    )
    return left, tuple(tuple(places[index] for index in run) for run in touched)


def _remainder(part: int, content: bytes, spans: Sequence[tuple[int, int]]) -> Remainder:
    pieces: list[bytes] = []
    ends: list[int] = []
    position = length = 0
    for start, end in spans:
        pieces += (content[position:start], STAND_IN)
        length += start - position + len(STAND_IN)
        ends.append(length)
        position = end
    pieces.append(content[position:])
    return Remainder(part, b"".join(pieces), tuple(spans), tuple(ends))
