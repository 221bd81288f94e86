"""Scores a text for prompt injection."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import hyperscan

from sidecar.domain.guardrail_settings import InjectionKind
from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.detectors.prompt_injection.model import (
    PHRASE_MARK,
    PHRASES,
    Model,
    load_model,
)
from sidecar.guardrails.matching.database import compile_hyperscan
from sidecar.guardrails.matching.rule import Expression

SLICE_WORDS: Final = 8192
"""Bytes between two interruptions: 0.1 ms of harmless text, some 3 ms of nothing but terms."""

_LOWER: Final = bytes(
    byte | 0x20 if chr(byte) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    else byte if chr(byte).isalnum() and byte < 0x80  # noqa: PLR2004 - ASCII ends there
    else 0x20
    for byte in range(256)
)  # fmt: skip
BORDER: Final = b"\x00"
"""Between texts that are searched together, as a word that no text has, with two spaces behind it.

No term goes over it: a gap may take it for a word, but nothing begins with a space there.
"""
_BORDER_AND_SPACE: Final = BORDER + b" "
_APART: Final = b" " + BORDER + b" "
_LOWER_AND_BORDER: Final = BORDER + _LOWER[1:]
_NOT_WORD: Final = re.compile(r"(?:[^\w]|_)+")
_APOSTROPHES: Final = dict.fromkeys(map(ord, "'’"))  # noqa: RUF001 - the typographic one


def words(content: bytes) -> bytes:
    """Return the words of *content*, already in its plain form (see `text_views`)."""
    if len(content) > SLICE_WORDS:
        return b"".join(word_slices(content))
    found = _words(content)
    return b" %b " % found if found else b" "


def word_slices(content: bytes) -> Iterator[bytes]:
    """Return the words of a text in pieces, each from the space before a word on.

    The last one has the space that ends the text: most texts are one piece, searched in one call.
    """
    start, piece = 0, b""
    while start < len(content):
        end = start + SLICE_WORDS
        if end < len(content):  # between two words, or at least between two characters
            space = content.rfind(b" ", start, end)
            if space > start:
                end = space
            else:
                while content[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a continuation byte of UTF-8
                    end -= 1
        found = _words(content[start:end])
        if found:
            if piece:
                yield piece
            piece = b" " + found
        start = end
    yield piece + b" "


def _words(content: bytes) -> bytes:
    if content.isascii():
        return b" ".join(content.translate(_LOWER, b"'").split())
    text = content.decode().casefold().translate(_APOSTROPHES)
    return _NOT_WORD.sub(" ", text).strip().encode()


_THOUSAND: Final = 1000.0

KIND_SHARE: Final = 0.25
"""Share of a passage's weight from which on it counts as of that kind too."""

Hit = int
"""Where in the words a term ends, and in the lower 16 bits its index.

A number and not a pair: garbage collection counts pairs, and a text of nothing but terms would
make it go through all of a worker's objects, again and again.
"""
_INDEX_BITS: Final = 16
_INDEX: Final = (1 << _INDEX_BITS) - 1


@dataclass(frozen=True, slots=True)
class BestPassage:
    """The passage of a text whose terms add up highest.

    `kinds` are those of a good part of the sum, the greatest first.
    """

    total: int
    kinds: tuple[InjectionKind, ...]


EMPTY: Final = BestPassage(0, ())


class Scorer:
    """A model ready to run. Bound to one thread, as its database is."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._nothing = RunningSum(model)

    @cached_property
    def _database(self) -> hyperscan.Database:
        return compile_hyperscan(term_expressions(term.name for term in self.model.terms))

    def load(self) -> None:
        """Compile the terms now instead of with the first text; takes a third of a second."""
        _ = self._database

    def sums(self, contents: Sequence[bytes]) -> Cooperative[Sequence[RunningSum]]:
        """Add up each of *contents*, which are in their plain form.

        Short texts are searched in one call: to begin takes as long as a short text, and the
        database's tables would be fetched anew for each.
        """
        sums: list[RunningSum] = []
        short: list[bytes] = []
        room = SLICE_WORDS
        for content in contents:
            room -= len(content)
            if room < 0:
                if short:
                    sums += self._add_up_short(short)
                    yield
                short, room = [], SLICE_WORDS - len(content)
            if room < 0:
                sums.append((yield from self._add_up_long(content)))
                yield
                room = SLICE_WORDS
            else:
                short.append(content)
        return [*sums, *self._add_up_short(short)] if short else sums

    def _add_up_short(self, contents: Sequence[bytes]) -> Sequence[RunningSum]:
        if all(map(bytes.isascii, contents)):
            joined = BORDER.join(contents)
            if joined.count(BORDER) == len(contents) - 1:
                return self.sums_of_joined(joined, len(contents))
        return self._sums_of_words(_BORDER_AND_SPACE.join(map(words, contents)), len(contents))

    def sums_of_joined(self, joined: bytes, count: int) -> Sequence[RunningSum]:
        """Add up each of *count* short ASCII texts that have a `BORDER` between them."""
        # All in one go, which takes little longer than one of them; each copy is let go at once.
        found = b" ".join(
            joined.replace(BORDER, _APART).translate(_LOWER_AND_BORDER, b"'").split()
        )
        return self._sums_of_words(b" %b " % found.replace(BORDER, _BORDER_AND_SPACE), count)

    def _sums_of_words(self, texts: bytes, count: int) -> Sequence[RunningSum]:
        hits: list[Hit] = []
        with self._database.stream(match_event_handler=_collect, context=hits) as stream:
            stream.scan(texts)
        if not hits:
            return [self._nothing] * count
        hits.sort()
        sums: list[RunningSum] = []
        start = end = 0
        for text in texts.split(BORDER):
            end += len(text) + 1
            stop = bisect_left(hits, end << _INDEX_BITS, start)
            # Where in the words a text begins makes no difference to its sum.
            sums.append(
                RunningSum(self.model, hits[start:stop]) if stop > start else self._nothing
            )
            start = stop
        return sums

    def _add_up_long(self, content: bytes) -> Cooperative[RunningSum]:
        hits: list[Hit] = []
        sum_ = RunningSum(self.model)
        with self._database.stream(match_event_handler=_collect, context=hits) as stream:
            for number, found in enumerate(word_slices(content)):
                if number:
                    yield
                stream.scan(found)
                if hits:
                    sum_.add(sorted(hits))
                    hits.clear()
        return sum_


def _collect(index: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.append(end << _INDEX_BITS | index)  # type: ignore[attr-defined]  # the stub has `object`; it is the list of a search


def hit(end: int, index: int) -> Hit:
    """Return the hit of a term that ends there."""
    return end << _INDEX_BITS | index


class RunningSum:
    """Adds up hits as they come, in the order of the text; `total` is that of the best passage."""

    __slots__ = (
        "_best_length",
        "_best_run",
        "_last",
        "_model",
        "_previous",
        "_run",
        "_sum",
        "total",
    )

    def __init__(self, model: Model, hits: Sequence[Hit] = ()) -> None:
        """Begin with *hits*."""
        self._model = model
        self.total = self._sum = self._previous = self._best_length = 0
        self._run: list[int] = []
        self._best_run = self._run
        self._last: dict[int, int] = {}
        if hits:
            self.add(hits)

    def add(self, hits: Iterable[Hit]) -> None:
        """Go on by *hits*."""
        drift, span, terms = self._model.drift, self._model.span, self._model.terms
        last = self._last
        sum_, previous = self._sum, self._previous
        for one in hits:
            end, index = one >> _INDEX_BITS, one & _INDEX
            sum_ -= drift * (end - previous)
            previous = end
            if sum_ <= 0:
                sum_ = 0
                self._run = []
            if end - last.get(index, -span) >= span:
                sum_ += terms[index].weight
                self._run.append(index)
            last[index] = end
            if sum_ > self.total:
                self.total, self._best_run, self._best_length = sum_, self._run, len(self._run)
        self._sum, self._previous = sum_, previous

    def best(self) -> BestPassage:
        """Return the passage that has added up highest."""
        if not self.total:
            return EMPTY
        sums = dict.fromkeys(InjectionKind, 0)
        for index in set(self._best_run[: self._best_length]):
            term = self._model.terms[index]
            sums[term.kind] += term.weight
        least = sum(sums.values()) * KIND_SHARE
        kinds = sorted(sums, key=lambda kind: -sums[kind])
        return BestPassage(self.total, tuple(kind for kind in kinds if sums[kind] >= least))


def term_expressions(names: Iterable[str]) -> tuple[Expression, ...]:
    """Return the expressions of terms, over words, whose every match counts."""
    phrases = {phrase.name: phrase.regex for phrase in PHRASES}
    return tuple(
        Expression(
            phrases[name[1:]] if name.startswith(PHRASE_MARK) else f" {name} ", counted=True
        )
        for name in names
    )


def score(total: int, medium: int) -> float:
    """Return a sum as a score from 0 to 1; one half is at the threshold `medium`."""
    return 1 / (1 + math.exp((medium - total) / _THOUSAND))


@cache
def shipped_scorer() -> Scorer:
    """Return the shipped model's scorer, the same for the whole process."""
    return Scorer(load_model())
