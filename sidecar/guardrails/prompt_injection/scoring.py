"""How much of an attack is in a text: the stretch of it whose terms add up highest.

A running sum that every term raises, every byte lowers and zero bounds: its highest value is
the best stretch, however long the text around it is. So harmless text neither dilutes an attack
nor adds up to one. No weight is negative, so no added words can talk an attack down; they can
only stretch it, which costs `drift`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Final

from sidecar.domain.local_guardrails import InjectionKind
from sidecar.guardrails.expressions import compile_hyperscan
from sidecar.guardrails.prompt_injection.model import PHRASE_MARK, Model, load_model
from sidecar.guardrails.prompt_injection.phrases import PHRASES
from sidecar.guardrails.prompt_injection.words import (
    BORDER,
    SLICE_WORDS,
    word_slices,
    words_of_each,
)
from sidecar.guardrails.rules.rule import Expression
from sidecar.guardrails.slices import Steps

_THOUSAND: Final = 1000.0

KIND_SHARE: Final = 0.25
"""Of a stretch's weight, from which on it counts as of that kind too."""

Hit = int
"""Where in the words a term ends, and in the lower 16 bits its index.

A number and not a pair: garbage collection counts pairs, and a text of nothing but terms would
make it go through all of a worker's objects, again and again.
"""
_INDEX_BITS: Final = 16
_INDEX: Final = (1 << _INDEX_BITS) - 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """The stretch of a text whose terms add up highest.

    `kinds` are those of a good part of the sum, the greatest first.
    """

    total: int
    kinds: tuple[InjectionKind, ...]


EMPTY: Final = Stretch(0, ())


class Scorer:
    """A model ready to run. Bound to one thread, as its database is."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._nothing = RunningSum(model)
        self._database = compile_hyperscan(term_expressions(term.name for term in model.terms))

    def sums(self, contents: Sequence[bytes]) -> Steps[Sequence[RunningSum]]:
        """Add up each of *contents*, which are in their plain form.

        What is short is searched in one call: to begin takes as long as a short text, and the
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

    def _add_up_short(self, contents: Sequence[bytes]) -> list[RunningSum]:
        texts = words_of_each(contents)
        hits: list[Hit] = []
        with self._database.stream(match_event_handler=_collect, context=hits) as stream:
            stream.scan(texts)
        if not hits:
            return [self._nothing] * len(contents)
        hits.sort()
        sums: list[RunningSum] = []
        start = 0
        for end in accumulate([len(text) + 1 for text in texts.split(BORDER)]):
            stop = bisect_left(hits, end << _INDEX_BITS, start)
            # Where in the words a text begins makes no difference to its sum.
            sums.append(
                RunningSum(self.model, hits[start:stop]) if stop > start else self._nothing
            )
            start = stop
        return sums

    def _add_up_long(self, content: bytes) -> Steps[RunningSum]:
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
    """Adds up hits as they come, in the order of the text; `total` is that of the best stretch."""

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

    def best(self) -> Stretch:
        """Return the stretch that has added up highest."""
        return Stretch(self.total, self._kinds()) if self.total else EMPTY

    def _kinds(self) -> tuple[InjectionKind, ...]:
        sums = dict.fromkeys(InjectionKind, 0)
        for index in set(self._best_run[: self._best_length]):
            term = self._model.terms[index]
            sums[term.kind] += term.weight
        least = sum(sums.values()) * KIND_SHARE
        kinds = sorted(sums, key=lambda kind: -sums[kind])
        return tuple(kind for kind in kinds if sums[kind] >= least)


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
    """Return the shipped model's scorer; compiled once a process, in half a second."""
    return Scorer(load_model())
