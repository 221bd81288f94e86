"""The `prompt_injection` guardrail: scores texts by the words and phrases in them."""

from __future__ import annotations

import math
import operator
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice, repeat
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
"""Bytes between two interruptions: 50 µs of harmless text, a millisecond of nothing but terms."""

BORDER: Final = b"\x00"
"""Between texts that are searched together, as a word that no text has; no term goes over it."""

_BORDER_WORD: Final = b" " + BORDER + b" "
_LOWER: Final = bytes(
    byte | 0x20 if chr(byte) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    else byte if byte < 0x80 and (chr(byte).isalnum() or byte == BORDER[0])  # noqa: PLR2004 - ASCII
    else 0x20
    for byte in range(256)
)  # fmt: skip
_NOT_WORD: Final = re.compile(r"(?:[^\w ]|_| (?=[\W_]))[\W_]*")
"""All between two words but a single space: most words have one between them, and it stays."""


def words(content: bytes) -> bytes:
    """Return the words of *content*, already in its plain form (see `text_views`)."""
    if len(content) > SLICE_WORDS:
        return b"".join((b" ", *word_slices(content)))
    found = _words(content)
    return b" %b " % found if found else b" "


def words_of_joined(joined: bytes) -> bytes:
    """Return the words of short ASCII texts that have a `BORDER` between them."""
    return b" %b " % _ascii_words(joined.replace(BORDER, _BORDER_WORD))


def word_slices(content: bytes) -> Iterator[bytes]:
    """Return the words of a long text in pieces, each with the space behind its last word."""
    start = 0
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
            yield found + b" "
        start = end


def _words(content: bytes) -> bytes:
    if content.isascii():
        return _ascii_words(content.replace(BORDER, b" "))
    text = content.decode().casefold()
    text = text.replace("'", "").replace("’", "")  # noqa: RUF001 - the typographic one
    return _NOT_WORD.sub(" ", text).strip().encode()


def _ascii_words(content: bytes) -> bytes:
    # Cut at two spaces only, which is two to three times faster than at each: most words have one
    # between them, and an object is built for each piece. Of three spaces one is left in front.
    pieces = content.translate(_LOWER, b"'").strip().split(b"  ")
    return b" ".join(map(bytes.lstrip, filter(None, pieces)))


Hit = int
"""Where in the words a term ends, and in the lower 16 bits its index.

A number and not a pair: garbage collection counts pairs, and a text of nothing but terms would
make it go through all of a worker's objects, again and again.
"""
INDEX_BITS: Final = 16
INDEX: Final = (1 << INDEX_BITS) - 1

_ANCHOR: Final = INDEX
"""The index of hits that are no term, but the anchor of a phrase."""

_REACH_BYTES: Final = 128
"""Text on either side of an anchor that is searched; all of it if that has too few words."""

_LONG_WORDS: Final = 1024
_END_OF_WORD: Final = re.compile(rb"([^ ]{64})[^ ]+")
"""No term has so long a word."""


class TermSearch:
    """Finds the terms of a model. Bound to one thread, as its databases are.

    Three databases take a third of the time of one: literal texts, phrases with gaps, and those
    with an anchor, a part that is rare in harmless text. Anchors are searched for among the
    literal texts, and their phrases only around them. The result is the same: every match of the
    phrase has its anchor in it, and an expression looks at nothing outside of its match.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Compile the terms of these *names*, in half a second. Hits have the index of a name."""
        phrases = {PHRASE_MARK + phrase.name: phrase for phrase in PHRASES}
        literal: list[_Numbered] = []
        common: list[_Numbered] = []
        anchored: list[_Numbered] = []
        self._most_words = self._most_anchored_words = 0
        for index, name in enumerate(names):
            phrase = phrases.get(name)
            words_ = name.count(" ") + 1 if phrase is None else phrase.most_words
            self._most_words = max(self._most_words, words_)
            if phrase is None:
                literal.append((f" {name} ", index))
            elif not phrase.has_gaps:
                literal.append((phrase.regex, index))
            elif not phrase.anchors:
                common += [(regex, index) for regex in phrase.split]
            else:
                literal += [(regex, _ANCHOR) for regex in phrase.anchors]
                anchored.append((phrase.regex, index))
                self._most_anchored_words = max(self._most_anchored_words, words_)
        self._always = tuple(_compiled(one) for one in (literal, common) if one)
        self._anchored = _compiled(anchored) if anchored else None

    def hits(self, text: bytes) -> list[Hit]:
        """Return each occurrence of a term in *text*, which is words, in its order."""
        hits: list[Hit] = []
        for database in self._always:
            database.scan(text, _collect, 0, hits)  # keywords would take 0.2 µs
        if not hits:
            return hits
        anchors = [one >> INDEX_BITS for one in hits if one & INDEX == _ANCHOR]
        if anchors and self._anchored is not None:
            hits = [one for one in hits if one & INDEX != _ANCHOR]
            for start, end in self._around(text, sorted(anchors)):
                found: list[Hit] = []
                self._anchored.scan(text[start:end], _collect, 0, found)
                hits += [one + (start << INDEX_BITS) for one in found]
        hits.sort()
        return hits

    def _around(self, text: bytes, anchors: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the spans of *text* that hold all phrases whose anchors end there."""
        if len(anchors) * 2 * _REACH_BYTES > len(text):
            yield 0, len(text)  # faster, however many there are
            return
        start = end = 0
        for anchor in anchors:
            before, after = max(anchor - _REACH_BYTES, 0), anchor + _REACH_BYTES
            if text.count(b" ", before, anchor) <= self._most_anchored_words:
                before = 0  # long words
            if text.count(b" ", anchor, after) <= self._most_anchored_words:
                after = len(text)
            if before > end:
                if end:
                    yield start, end
                start = before
            end = max(end, after)
        yield start, end

    def hits_in_slices(self, content: bytes) -> Iterator[list[Hit]]:
        """Yield the hits in each slice of a long text, by where they end in all of its words."""
        before, base = b" ", 0
        for piece in word_slices(content):
            text = before + piece
            hits = self.hits(text)
            new = bisect_left(hits, (len(before) + 1) << INDEX_BITS)
            yield [one + (base << INDEX_BITS) for one in hits[new:]]
            # A term that ends in the next slice may begin so many words before it. Long ones can
            # only be in a gap of a phrase, where their length makes no difference.
            before = text[len(text.rsplit(b" ", self._most_words)[0]) :]
            base += len(text)
            if len(before) > _LONG_WORDS:
                before = _END_OF_WORD.sub(rb"\1", before)
            base -= len(before)


_Numbered = tuple[str, int]
"""A regular expression over words, and the index of its hits."""


def _compiled(expressions: Sequence[_Numbered]) -> hyperscan.Database:
    return compile_hyperscan(
        [Expression(regex, counted=True) for regex, _ in expressions],
        ids=[index for _, index in expressions],
        mode=hyperscan.HS_MODE_BLOCK,
    )


def _collect(index: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.append(end << INDEX_BITS | index)  # type: ignore[attr-defined]  # the stub has `object`; it is the list of a search


_THOUSAND: Final = 1000.0

KIND_SHARE: Final = 0.25
"""Share of a passage's weight from which on it counts as of that kind too."""

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
        end, index = one >> INDEX_BITS, one & INDEX
        sum_ -= drift * (end - previous)
        previous = end
        if sum_ <= 0:
            sum_ = 0
            run = []
        if index not in last or end - last[index] >= span:
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
    """A model ready to run. Bound to one thread, as its databases are."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._search = TermSearch([term.name for term in model.terms])

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
                sum_: Sum | None = None
                for hits in self._search.hits_in_slices(content):
                    sum_ = add_up(self.model, hits, sum_) if hits else sum_
                    yield
                sums.append(sum_ or NO_TERMS)
                room = SLICE_WORDS
            else:
                short.append(content)
        return [*sums, *self._add_up_short(short)] if short else sums

    def _add_up_short(self, contents: Sequence[bytes]) -> Sequence[Sum]:
        joined = BORDER.join(contents)
        if joined.isascii() and not any(map(operator.contains, contents, repeat(BORDER))):
            return self.sums_of_joined(joined, len(contents))
        return self._sums_of_words(BORDER.join(map(words, contents)), len(contents))

    def sums_of_joined(self, joined: bytes, count: int) -> Sequence[Sum]:
        """Add up each of *count* short ASCII texts that have a `BORDER` between them."""
        return self._sums_of_words(words_of_joined(joined), count)

    def _sums_of_words(self, texts: bytes, count: int) -> Sequence[Sum]:
        hits = self._search.hits(texts)
        if not hits:
            return [NO_TERMS] * count
        sums: list[Sum] = []
        start = end = 0
        for text in texts.split(BORDER):
            end += len(text) + 1
            stop = bisect_left(hits, end << INDEX_BITS, start)
            # Where in the words a text begins makes no difference to its sum.
            sums.append(add_up(self.model, hits[start:stop]) if stop > start else NO_TERMS)
            start = stop
        return sums


def score(total: float, medium: int) -> float:
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
    """The thresholds of a sum: `least` makes a finding, `medium` a score of one half."""

    least: int
    medium: int


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
        without_terms = _certainty(-self._cutoff.medium)
        return GuardrailResult(guardrail, Verdict.PASS, score=without_terms)

    @override
    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> GuardrailResult | Cooperative[GuardrailResult]:
        if not isinstance(texts, bytes):
            return self._judge_in_turns(parts, texts, passing)
        sums = self._scorer.sums_of_joined(texts, len(parts))
        types: dict[int, str] = {}
        margins: dict[int, float] = {}
        margin = self._weigh(parts, None, sums, types, margins)
        return _result(parts, types, passing, margin, margins)

    def _judge_in_turns(
        self, parts: Sequence[TextPart], texts: Sequence[TextView], passing: GuardrailResult
    ) -> Cooperative[GuardrailResult]:
        types: dict[int, str] = {}
        margin = -math.inf
        margins: dict[int, float] = {}
        views = _views_to_judge(texts)
        while some := tuple(islice(views, _PARTS_A_STEP)):
            sums = yield from self._scorer.sums([view.content for view in some])
            margin = max(margin, self._weigh(parts, some, sums, types, margins))
            if len(some) == _PARTS_A_STEP:
                yield
        return _result(parts, types, passing, margin, margins)

    def _weigh(
        self,
        parts: Sequence[TextPart],
        views: Sequence[TextView] | None,
        sums: Sequence[Sum],
        types: dict[int, str],
        margins: dict[int, float],
    ) -> float:
        """Add the parts whose sum reaches their role's threshold; return the most above `medium`.

        The sums are those of *views* or, without them, of the parts themselves. *margins* gets
        that of each part that has a term.
        """
        margin = -math.inf
        for at, sum_ in enumerate(sums):
            index, total = at if views is None else views[at].part, sum_[0]
            role = parts[index].role
            cutoff = self._cutoffs.get(role, self._cutoff)
            margin = max(margin, total - cutoff.medium)
            if total:
                margins[index] = max(margins.get(index, -math.inf), total - cutoff.medium)
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
        return margin


def _result(
    parts: Sequence[TextPart],
    types: Mapping[int, str],
    passing: GuardrailResult,
    margin: float,
    margins: Mapping[int, float],
) -> GuardrailResult:
    certainty = _certainty(margin)
    if certainty == passing.score and not types:
        return passing
    least = passing.score or 0.0
    scores = [(index, _certainty(margin)) for index, margin in sorted(margins.items())]
    values = tuple([one for one in scores if one[1] > least])
    if types:
        return whole_parts(parts, types, passing, score=certainty)._replace(part_values=values)
    return GuardrailResult(passing.guardrail, Verdict.PASS, score=certainty, part_values=values)


@lru_cache(maxsize=1024)  # most texts have few terms, or none
def _certainty(margin: float) -> float:
    return round(score(margin, 0), SCORE_DIGITS)


def _cutoff(thresholds: Mapping[Threshold, int], level: Threshold) -> _Cutoff:
    return _Cutoff(thresholds[level], thresholds[Threshold.MEDIUM])


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
