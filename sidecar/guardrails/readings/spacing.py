"""Letters set apart: `s k - p r o j`, `4-1-1-1`, with the same separator all along."""

from __future__ import annotations

import re
from typing import Final

from sidecar.guardrails.readings.reading import Reading, Runs, matches
from sidecar.guardrails.rules.rule import Expression, compile_re2
from sidecar.guardrails.slices import Steps
from sidecar.guardrails.text_views import Piece, View

_RUN: Final = re.compile(
    rb"(?<![0-9A-Za-z])[0-9A-Za-z]([ ._*|/,-])[0-9A-Za-z]\1(?:[!-~]\1){4,}[!-~](?![0-9A-Za-z])"
)

_SHORTEST: Final = 13
_LEAST: Final = 16
"""A run has `_SHORTEST` bytes at least; one more tells what stands behind it."""
_LIKELY: Final = compile_re2(
    Expression(r"\b[0-9A-Za-z][ ._*|/,-][0-9A-Za-z][ ._*|/,-](?:[!-~][ ._*|/,-]){4}[!-~]")
)


def _read(piece: Piece) -> Steps[tuple[Piece, ...]]:
    runs = Runs(piece.content)
    for match in matches(_RUN, piece.content, least=_LEAST, likely=_LIKELY):
        if match is None:
            yield
            continue
        start, end = match.span()
        runs.add_up_to(start)
        runs.add(match[0][::2], start, end)
    if not runs:
        return ()
    runs.add_rest()
    return (runs.as_piece(piece, View.UNSPACED),)


# Three in a row cost the pass over every text next to nothing; all seven would cost half of it.
SPACING: Final = Reading(
    _read,
    lambda content: len(content) >= _SHORTEST,
    trigger=Expression(
        r"[ ._*|/,-][0-9A-Za-z][ ._*|/,-][0-9A-Za-z][ ._*|/,-][0-9A-Za-z][ ._*|/,-]"
    ),
)
