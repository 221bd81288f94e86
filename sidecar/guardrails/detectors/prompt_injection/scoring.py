"""The `prompt_injection` guardrail: scores texts by the words and phrases in them."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Final, TypeAlias

import hyperscan
from typing_extensions import override

from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.guardrail_settings import InjectionKind, PromptInjectionSettings, Threshold
from sidecar.domain.policy import Guardrail
from sidecar.domain.subject import TextPart
from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.detectors.prompt_injection.model import (
    PHRASE_MARK,
    PHRASES,
    Model,
    load_model,
)
from sidecar.guardrails.detectors.whole_text import Texts, WholeTextCheck, whole_parts
from sidecar.guardrails.matching.database import compile_hyperscan
from sidecar.guardrails.matching.rule import Expression
from sidecar.guardrails.matching.text_views import ASCII_VIEWS, TextView, ViewKind

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


Sum: TypeAlias = tuple[int, Sequence[int], int, int, int, list[int], dict[int, int]]
"""The total of a text's best passage, the terms of a passage, and how many of them are the best.

Behind these is the state for hits that follow: the present passage's total and end, its terms, and
where each term was last. A plain tuple, since most texts are added up in one go.
"""

NO_TERMS: Final[Sum] = (0, (), 0, 0, 0, [], {})


def add_up(model: Model, hits: Iterable[Hit], before: Sum | None = None) -> Sum:
    """Add up *hits*, which are in the order of the text and go on where those *before* ended."""
    drift, span, terms = model.drift, model.span, model.terms
    total, best, length, sum_, previous, run, last = before or (0, (), 0, 0, 0, [], {})
    for one in hits:
        end, index = one >> _INDEX_BITS, one & _INDEX
        sum_ -= drift * (end - previous)
        previous = end
        if sum_ <= 0:
            sum_ = 0
            run = []
        if end - last.get(index, -span) >= span:
            sum_ += terms[index].weight
            run.append(index)
        last[index] = end
        if sum_ > total:
            total, best, length = sum_, run, len(run)
    return total, best, length, sum_, previous, run, last


def kinds_of(model: Model, sum_: Sum) -> tuple[InjectionKind, ...]:
    """Return the kinds that are a good part of a text's best passage, the greatest first."""
    total, best, length, *_ = sum_
    if not total:
        return ()
    sums = dict.fromkeys(InjectionKind, 0)
    for index in set(best[:length]):
        term = model.terms[index]
        sums[term.kind] += term.weight
    least = sum(sums.values()) * KIND_SHARE
    kinds = sorted(sums, key=lambda kind: -sums[kind])
    return tuple(kind for kind in kinds if sums[kind] >= least)


class Scorer:
    """A model ready to run. Bound to one thread, as its database is."""

    def __init__(self, model: Model) -> None:
        self.model = model
        expressions = term_expressions(term.name for term in model.terms)
        # Two databases of a megabyte each: one call of block mode takes two thirds of a stream's
        # time, but only a stream finds terms across slices.
        self._block = compile_hyperscan(expressions, mode=hyperscan.HS_MODE_BLOCK)
        self._stream = compile_hyperscan(expressions)

    def sums(self, contents: Sequence[bytes]) -> Cooperative[Sequence[Sum]]:
        """Add up each of *contents*, which are in their plain form.

        Short texts are searched in one call: to begin takes as long as a short text, and the
        database's tables would be fetched anew for each.
        """
        sums: list[Sum] = []
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

    def _add_up_short(self, contents: Sequence[bytes]) -> Sequence[Sum]:
        if all(map(bytes.isascii, contents)):
            joined = BORDER.join(contents)
            if joined.count(BORDER) == len(contents) - 1:
                return self.sums_of_joined(joined, len(contents))
        return self._sums_of_words(_BORDER_AND_SPACE.join(map(words, contents)), len(contents))

    def sums_of_joined(self, joined: bytes, count: int) -> Sequence[Sum]:
        """Add up each of *count* short ASCII texts that have a `BORDER` between them."""
        # All in one go, which takes little longer than one of them; each copy is let go at once.
        found = b" %b " % joined.replace(BORDER, _APART).translate(_LOWER_AND_BORDER, b"'")
        while b"  " in found:  # faster than `split`, which builds an object for each word
            found = found.replace(b"  ", b" ")
        return self._sums_of_words(found.replace(BORDER, _BORDER_AND_SPACE), count)

    def _sums_of_words(self, texts: bytes, count: int) -> Sequence[Sum]:
        hits: list[Hit] = []
        self._block.scan(texts, match_event_handler=_collect, context=hits)
        if not hits:
            return [NO_TERMS] * count
        hits.sort()
        sums: list[Sum] = []
        start = end = 0
        for text in texts.split(BORDER):
            end += len(text) + 1
            stop = bisect_left(hits, end << _INDEX_BITS, start)
            # Where in the words a text begins makes no difference to its sum.
            sums.append(add_up(self.model, hits[start:stop]) if stop > start else NO_TERMS)
            start = stop
        return sums

    def _add_up_long(self, content: bytes) -> Cooperative[Sum]:
        hits: list[Hit] = []
        sum_: Sum | None = None
        with self._stream.stream(match_event_handler=_collect, context=hits) as stream:
            for number, found in enumerate(word_slices(content)):
                if number:
                    yield
                stream.scan(found)
                if hits:
                    sum_ = add_up(self.model, sorted(hits), sum_)
                    hits.clear()
        return sum_ or NO_TERMS


def _collect(index: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.append(end << _INDEX_BITS | index)  # type: ignore[attr-defined]  # the stub has `object`; it is the list of a search


def hit(end: int, index: int) -> Hit:
    """Return the hit of a term that ends there."""
    return end << _INDEX_BITS | index


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


INDIRECT_ROLES: Final = frozenset({"tool", "function"})
"""Roles of text that no user wrote: results of tools, and documents."""

SYSTEM_ROLES: Final = frozenset(
    {"system", "developer", "instructions", "systemInstruction", "system_instruction"}
)
"""Such text consists of rules for the model, so it takes more to be an attack.

It is itself the instructions to override and the prompt to extract: only a jailbreak counts.
"""

_SYSTEM_KINDS: Final = frozenset({InjectionKind.JAILBREAK})

_WORTH_READING: Final = frozenset(ViewKind) - {ViewKind.RAW, ViewKind.FOLDED}
"""Forms other than the part's own; words are without case anyway."""

_PARTS_A_STEP: Final = 32

SCORE_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class _Cutoff:
    """The thresholds of a sum: `least` makes a finding, `medium` a score of one half.

    `without_terms` is the score of most texts.
    """

    least: int
    medium: int
    without_terms: float


class PromptInjectionCheck(WholeTextCheck):
    """A text whose best passage reaches its role's threshold is the finding, whole."""

    def __init__(self, settings: PromptInjectionSettings, scorer: Scorer) -> None:
        self._scorer = scorer
        self._chosen = frozenset(settings.kinds or InjectionKind)
        model, level, indirect = scorer.model, settings.threshold, settings.indirect_threshold
        self._cutoff = _cutoff(model.thresholds, level)
        self._cutoffs = dict.fromkeys(INDIRECT_ROLES, _cutoff(model.thresholds, indirect))
        self._cutoffs |= dict.fromkeys(SYSTEM_ROLES, _cutoff(model.system_thresholds, level))

    @override
    def passing(self, guardrail: Guardrail) -> GuardrailResult:
        return GuardrailResult(guardrail, Verdict.PASS, score=self._cutoff.without_terms)

    @override
    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> GuardrailResult | Cooperative[GuardrailResult]:
        if not isinstance(texts, bytes):
            return self._judge_in_turns(parts, texts, passing)
        sums = self._scorer.sums_of_joined(texts, len(parts))
        types: dict[int, str] = {}
        highest = self._weigh(parts, None, sums, types)
        return _result(parts, types, passing, highest)

    def _judge_in_turns(
        self, parts: Sequence[TextPart], texts: Sequence[TextView], passing: GuardrailResult
    ) -> Cooperative[GuardrailResult]:
        types: dict[int, str] = {}
        highest = 0.0
        views = _views_to_judge(texts)
        while some := tuple(islice(views, _PARTS_A_STEP)):
            sums = yield from self._scorer.sums([view.content for view in some])
            highest = max(highest, self._weigh(parts, some, sums, types))
            if len(some) == _PARTS_A_STEP:
                yield
        return _result(parts, types, passing, highest)

    def _weigh(
        self,
        parts: Sequence[TextPart],
        views: Sequence[TextView] | None,
        sums: Sequence[Sum],
        types: dict[int, str],
    ) -> float:
        """Add the parts whose sum reaches their role's threshold; return the highest score.

        The sums are those of *views* or, without them, of the parts themselves.
        """
        highest = 0.0
        for at, sum_ in enumerate(sums):
            index, total = at if views is None else views[at].part, sum_[0]
            role = parts[index].role
            cutoff = self._cutoffs.get(role, self._cutoff)
            reached = score(total, cutoff.medium) if total else cutoff.without_terms
            highest = max(highest, reached)
            if total >= cutoff.least and index not in types:
                kinds = kinds_of(self._scorer.model, sum_)
                if kinds and views is not None and ViewKind.DECODED in views[at].kinds:
                    kinds = (InjectionKind.ENCODED_PAYLOAD, *kinds)
                counting = self._chosen & _SYSTEM_KINDS if role in SYSTEM_ROLES else self._chosen
                kind = next((kind for kind in kinds if kind in counting), None)  # the foremost
                if kind is not None:
                    type_ = kind.value.upper()
                    if role in INDIRECT_ROLES:
                        type_ = f"INDIRECT_{type_}"
                    types[index] = type_
        return highest


def _result(
    parts: Sequence[TextPart], types: Mapping[int, str], passing: GuardrailResult, highest: float
) -> GuardrailResult:
    certainty = round(highest, SCORE_DIGITS)
    if types:
        return whole_parts(parts, types, passing, score=certainty)
    if certainty == passing.score:
        return passing
    return GuardrailResult(passing.guardrail, Verdict.PASS, score=certainty)


def _cutoff(thresholds: Mapping[Threshold, int], level: Threshold) -> _Cutoff:
    medium = thresholds[Threshold.MEDIUM]
    return _Cutoff(thresholds[level], medium, round(score(0, medium), SCORE_DIGITS))


def _views_to_judge(views: Sequence[TextView]) -> Iterator[TextView]:
    """Yield each part once, in its plain form if that is another, and the text hidden in it."""
    plain = {
        view.part
        for view in views
        if view.kinds is not ASCII_VIEWS and ViewKind.PLAIN in view.kinds
    }
    for view in views:
        if (
            view.kinds is ASCII_VIEWS  # mostly; an enum's members are slow to look up
            or not view.kinds.isdisjoint(_WORTH_READING)
            or (ViewKind.RAW in view.kinds and view.part not in plain)
        ):
            yield view
