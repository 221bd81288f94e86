"""The decoders in the order in which they run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from sidecar.guardrails.cooperative import Steps
from sidecar.guardrails.deobfuscation.decoder import Reading
from sidecar.guardrails.deobfuscation.encodings import ENCODINGS, ESCAPES
from sidecar.guardrails.deobfuscation.look_alikes import LOOK_ALIKES
from sidecar.guardrails.deobfuscation.spelling import LEET, SPACING
from sidecar.guardrails.matching.text_views import ASCII_VIEWS, Piece, View

MAX_DEPTH: Final = 2
"""What is encoded twice is read; a model does not get through more unaided."""

FOR_ALL: Final = (ESCAPES, ENCODINGS, SPACING, LOOK_ALIKES)
FOR_WORDS: Final = (*FOR_ALL, LEET)

TRIGGERS: Final = tuple(one.trigger for one in FOR_WORDS if one.trigger is not None)


PIECES_A_STEP: Final = 256
"""Pieces looked at between two interruptions where little is to be read of them."""


def sources(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Return the piece of each part that is to be read further: the plain one where there is."""
    if all(piece.views is ASCII_VIEWS for piece in pieces):
        return tuple(pieces)
    best = {piece.part: piece for piece in pieces if View.RAW in piece.views}
    best |= {piece.part: piece for piece in pieces if View.PLAIN in piece.views}
    return tuple(best.values())


def read(pieces: Iterable[Piece], chosen: Collection[Reading]) -> Steps[list[Piece]]:
    """Return what *pieces* say by the readings *chosen*, where they say anything else."""
    found: list[Piece] = []
    for count, piece in enumerate(pieces, start=1):
        for reading in chosen:
            if reading.applies(piece.content):
                found += yield from reading.read(piece)
                yield
        if not count % PIECES_A_STEP:
            yield
    return found
