"""Ordinary text to measure with: generated, the same for the same seed, without any finding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_WORDS: Final = (  # noqa: SIM905 - two hundred quotes would hide the words
    "a about after all also an and any are as ask at be because been before both but by can"
    " change chapter city clear code come company compare could customer date day describe did"
    " different do document does draft each email even every example explain few find first for"
    " from function get give good has have he help her here how i idea if in into is it its just"
    " know language last letter like line list long look make many meeting memory message model"
    " month more most my name need new next no not note now of offer on one only or order other"
    " our out over paragraph people plan please point price project question reader reason"
    " report result review same say second section see she short should shorter show simple so"
    " some summary table take team tell text than that the their them then there these they"
    " thing this time title to tone translate two up us use version very want was way we week"
    " well were what when where which who why will with word work would write year you your"
).split()
_SPICE: Final = (
    "3.5", "2026", "17:30", "42%", "Q3", "v1.12.0", "get_user(id=7)", "2026-03-14", "1,250",
    "x = y + 1", "HTTP/2", "#218", "(see page 12)", "A/B", "12 GB",
)  # fmt: skip
"""Pieces of ordinary prompts beside words; many look like the start of a finding."""
_SPICE_EVERY: Final = 23
_SENTENCE_WORDS: Final = 12


def benign_text(size_bytes: int, *, seed: int = 1) -> str:
    """Return ASCII text of exactly *size_bytes* that reads like a prompt and holds no finding."""
    pieces: list[str] = []
    length = 0
    for piece in _sentences(seed):
        pieces.append(piece)
        length += len(piece) + 1
        if length > size_bytes:
            break
    return " ".join(pieces)[:size_bytes]


def _sentences(seed: int) -> Iterator[str]:
    words: list[str] = []
    for count, number in enumerate(numbers(seed), start=1):
        spiced = count % _SPICE_EVERY == 0
        choice = _SPICE if spiced else _WORDS
        words.append(choice[number % len(choice)])
        if len(words) == _SENTENCE_WORDS:
            yield " ".join(words).capitalize() + "."
            words = []


def numbers(seed: int) -> Iterator[int]:
    """Return the numbers of a linear congruential generator (Knuth, MMIX), their upper half."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield state >> 33
