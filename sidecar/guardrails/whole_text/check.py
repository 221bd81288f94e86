"""What a guardrail is that judges texts as a whole, and what it is given to judge by."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart
from sidecar.guardrails.outcomes import Found
from sidecar.guardrails.rules.rule import Expression
from sidecar.guardrails.slices import Steps
from sidecar.guardrails.text_views import Piece


@dataclass(frozen=True, slots=True)
class Scanned:
    """The texts of one request after the one pass over them, for the guardrail of this name.

    `pieces` are the parts in their views, in the order they were scanned; a part that is not
    ASCII has several. `ends` has the end of each piece, its separator included. `hits` has, by
    index into the check's own `expressions`, the ends of matches: the first one, or all of an
    expression that is `counted`.
    """

    guardrail: str
    parts: Sequence[TextPart]
    pieces: Sequence[Piece]
    ends: Sequence[int]
    hits: Mapping[int, Sequence[int]]

    def piece_at(self, end: int) -> Piece:
        """Return the piece in which a match ends at *end*."""
        return self.pieces[min(bisect_right(self.ends, end), len(self.pieces) - 1)]

    def whole_part(self, part: int, type_: str) -> Finding:
        """Return all of a part as a finding."""
        return Finding(self.guardrail, type_, part, 0, len(self.parts[part].content))


class WholeTextCheck(Protocol):
    """Judges the texts of one request together; built once a policy, so keeps nothing of them."""

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """What the shared database looks for on its behalf."""
        ...

    def load(self) -> None:
        """Read what it judges by, if it is large: before the first text, and once a process."""
        return

    def judge(self, scanned: Scanned) -> Steps[Found]:
        """Return what is found, as spans of parts; yield at least every millisecond of work."""
        ...
