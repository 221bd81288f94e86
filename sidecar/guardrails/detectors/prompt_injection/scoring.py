"""The `prompt_injection` guardrail: scores texts by the words and phrases in them."""

from __future__ import annotations

import itertools
import math
import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
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
    BUCKETS,
    CONCEPT,
    CONCEPTS,
    EVERYDAY,
    Author,
    Bars,
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

FIRST_CONCEPT: Final = 0xFF00
"""From this index on hits are no terms, but words of a concept."""

REACH: Final = 96
"""Bytes of words within which concepts stand close together: some sixteen words.

Words against an attack, and everyday concepts, count so near to a rare word alone.
"""

_NONE: Final = 63
"""No concept; numbers of concepts have six bits."""

_MOST_KNOWN: Final = 1 << 15
"""Neighbourhoods of concepts whose terms are kept: some 4 MB."""

_CUT_BYTES: Final = 64
"""No word of the model is longer; a stretch is cut at a blank, if there is one so near."""

_MOST_BEFORE: Final = 6 * REACH + _CUT_BYTES
"""Bytes of words before a slice in which all that reaches into it begins, with all around that."""

_PARTS: Final = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Scripts that put no spaces between words, or endings behind them."""


def _expression(name: str) -> str:
    """Return the regular expression over words of a term or of a concept's word."""
    text = words(name.replace("_", " ").encode()).decode()
    is_part = _PARTS.search(text) is not None
    start = text.lstrip() if is_part or name.startswith("*") else text
    return start.rstrip() if is_part or name.endswith("*") else start


class TermSearch:
    """Finds the terms of a model. Bound to one thread, as its databases are.

    All words, those of terms and those of concepts, are literal texts of one database. Another has
    the rare ones: most texts have none, and of the others only the stretches around them are
    searched for all words, each of which takes a call of Python.
    """

    def __init__(
        self, names: Sequence[str], *, against: Collection[str] = (), has_rare: bool = True
    ) -> None:
        """Compile the terms of these *names*. Hits have the index of a name.

        Those *against* an attack count only near rare ones, as everyday concepts do; without
        *has_rare* all count everywhere.
        """
        concepts = {name: number for number, name in enumerate(CONCEPTS)}
        self._combined: dict[int, int] = {}
        self._known: dict[int, tuple[int, ...]] = {}
        numbered: list[tuple[str, int]] = []
        used = 0
        for index, name in enumerate(names):
            if parts := CONCEPT.findall(name):
                mask = reduce(operator.or_, (1 << concepts[one] for one in parts))
                self._combined[mask] = index
                used |= mask
            else:
                numbered.append((_expression(name), index))
        for name, number in concepts.items():
            if used >> number & 1:
                found = sorted({_expression(word) for word in CONCEPTS[name]})
                numbered += [
                    (one, FIRST_CONCEPT + number)
                    for one in found
                    if not any(other in one and other != one for other in found)  # found anyway
                ]
        common = {index for index, name in enumerate(names) if name in against}
        common |= {FIRST_CONCEPT + concepts[name] for name in EVERYDAY}
        rare = [one for one in numbered if one[1] not in common]
        self._database = _compiled(numbered)
        self._rare = _compiled(rare) if has_rare else None

    def hits(self, text: bytes) -> list[Hit]:
        """Return each occurrence of a term or concept in *text*, which is words, in its order."""
        hits: list[Hit] = []
        if self._rare is None:
            self._database.scan(text, _collect, 0, hits)  # keywords would take 0.2 µs
            hits.sort()
            return hits
        rare: list[Hit] = []
        self._rare.scan(text, _collect, 0, rare)
        for start, end in _stretches(rare, text):
            found: list[Hit] = []
            self._database.scan(text[start:end], _collect, 0, found)
            hits += [one + (start << INDEX_BITS) for one in found]
        hits.sort()
        return hits

    def combined(self, hits: Iterable[Hit]) -> list[Hit]:
        """Return *hits* with the terms of concepts that stand close together instead of these.

        Their order makes no difference, as it differs from language to language.
        """
        known = self._known
        first = second = third = _NONE
        first_end = second_end = third_end = 0
        found: list[Hit] = []
        for one in hits:
            own = (one & INDEX) - FIRST_CONCEPT
            if own < 0:
                found.append(one)
                continue
            end = one >> INDEX_BITS
            least = end - REACH
            if first_end < least:
                first = second = third = _NONE
            elif second_end < least:
                second = third = _NONE
            elif third_end < least:
                third = _NONE
            near = own | first << 6 | second << 12 | third << 18
            terms = known.get(near)
            if terms is None:
                terms = self._terms_of(near)
            for term in terms:
                found.append(end << INDEX_BITS | term)  # noqa: PERF401 - mostly none
            if own != first:
                if own != second:
                    third, third_end = second, second_end
                second, second_end = first, first_end
                first = own
            first_end = end
        return found

    def _terms_of(self, near: int) -> tuple[int, ...]:
        """Return the terms of a concept with up to three before it, the nearest lowest."""
        own, *others = (1 << (near >> shift & _NONE) for shift in (0, 6, 12, 18))
        before = [one for one in others if one not in {own, 1 << _NONE}]
        masks = [own, *(own | one for one in before)]
        masks += [own | one | other for one, other in itertools.combinations(before, 2)]
        terms = tuple([self._combined[mask] for mask in masks if mask in self._combined])
        if len(self._known) < _MOST_KNOWN:
            self._known[near] = terms
        return terms

    def hits_in_slices(self, content: bytes) -> Iterator[list[Hit]]:
        """Yield the terms in each slice of a long text, by where they end in all of its words.

        Those at the end of a slice come with the next one, in which a rare word may be near them.
        """
        text, base, done = b" ", 0, 1
        pieces = word_slices(content)
        piece = next(pieces, b"")
        while piece:
            following = next(pieces, b"")
            text += piece
            certain = max(done, len(text) - REACH) if following else len(text)
            hits = self.combined(self.hits(text))
            first, last = [bisect_left(hits, (end + 1) << INDEX_BITS) for end in (done, certain)]
            yield [one + (base << INDEX_BITS) for one in hits[first:last]]
            gone = max(0, len(text) - _MOST_BEFORE)
            text, base, done = text[gone:], base + gone, certain - gone
            piece = following


def _compiled(numbered: Sequence[tuple[str, int]]) -> hyperscan.Database:
    return compile_hyperscan(
        [Expression(regex, counted=True) for regex, _ in numbered],
        ids=[index for _, index in numbered],
        mode=hyperscan.HS_MODE_BLOCK,
    )


def _stretches(rare: list[Hit], text: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each stretch of *text* around *rare* words.

    Where it ends depends on the words beside it alone, not on where a slice begins; no stretch
    goes over a border between texts.
    """
    rare.sort()
    places = [one >> INDEX_BITS for one in rare]
    first = 0
    for number, place in enumerate(places, 1):
        following = places[number] if number < len(places) else place + 3 * REACH
        if following - place <= 2 * REACH and text.find(BORDER, place, following) < 0:
            continue
        start, end = max(0, places[first] - REACH), min(len(text), place + REACH)
        if (border := text.rfind(BORDER, start, places[first])) >= 0:
            start = border + 1
        elif start:
            start = _edge(text, text.find(b" ", start, start + _CUT_BYTES), start)
        if (border := text.find(BORDER, place, end)) >= 0:
            end = border
        elif end < len(text):
            end = _edge(text, text.rfind(b" ", end - _CUT_BYTES, end) + 1 or -1, end)
        yield start, end
        first = number


def _edge(text: bytes, blank: int, place: int) -> int:
    """Return the place of a *blank*; without one, *place* or the start of its character."""
    if blank >= 0:
        return blank
    while text[place] & 0xC0 == 0x80:  # noqa: PLR2004 - a continuation byte of UTF-8
        place -= 1
    return place


def _collect(index: int, _start: int, end: int, _flags: int, hits: object) -> None:
    # A named function: the binding keeps no reference to the one it is given.
    hits.append(end << INDEX_BITS | index)  # type: ignore[attr-defined]  # the stub has `object`; it is the list of a search


_THOUSAND: Final = 1000.0

_OVERRIDE: Final = InjectionKind.INSTRUCTION_OVERRIDE
_EXTRACTION: Final = InjectionKind.PROMPT_EXTRACTION

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
    drift, span, weights = model.drift, model.span, model.weights
    total, best, length, sum_, previous, run, last = before or (0, (), 0, 0, 0, [], {})
    for one in hits:
        end, index = one >> INDEX_BITS, one & INDEX
        sum_ -= drift * (end - previous)
        previous = end
        if sum_ <= 0:
            sum_ = 0
            run = []
        if index not in last or end - last[index] >= span:
            sum_ += weights[index]
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
        sums[term.kind] += max(term.weight, 0)
    least = sum(sums.values()) * KIND_SHARE
    kinds = [kind for kind in sorted(sums, key=lambda kind: -sums[kind]) if sums[kind] >= least]
    if kinds[0] is _EXTRACTION and _OVERRIDE in kinds:  # an override is the means, then
        kinds.remove(_OVERRIDE)
        kinds.insert(0, _OVERRIDE)
    return tuple(kinds)


class Scorer:
    """A model ready to run. Bound to one thread, as its databases are."""

    def __init__(self, model: Model) -> None:
        self.model = model
        against = {term.name for term in model.terms if term.weight < 0}
        self._search = TermSearch([term.name for term in model.terms], against=against)

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
            found = self._search.combined(hits[start:stop]) if stop > start else ()
            sums.append(add_up(self.model, found) if found else NO_TERMS)
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
    """The bars of a sum by length: `least` makes a finding, `medium` a score of one half."""

    least: Bars
    medium: Bars


class PromptInjectionCheck(WholeTextCheck):
    """A text whose best passage reaches the bar of its role and length is the finding, whole."""

    def __init__(self, settings: PromptInjectionSettings, scorer: Scorer) -> None:
        self._scorer = scorer
        self._chosen = frozenset(settings.kinds or InjectionKind)
        model, level, indirect = scorer.model, settings.threshold, settings.indirect_threshold
        self._cutoff = _cutoff(model, Author.USER, level)
        tool, system = (Author.TOOL, indirect), (Author.SYSTEM, level)
        self._cutoffs = dict.fromkeys(INDIRECT_ROLES, _cutoff(model, *tool))
        self._cutoffs |= dict.fromkeys(SYSTEM_ROLES, _cutoff(model, *system))
        self._without_terms = -self._cutoff.medium[0]

    @override
    def passing(self, guardrail: Guardrail) -> GuardrailResult:
        return GuardrailResult(guardrail, Verdict.PASS, score=_certainty(self._without_terms))

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
        margin: float = self._without_terms
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
        """Add the parts whose sum reaches their bar; return the most above that of `medium`.

        The sums are those of *views* or, without them, of the parts themselves. *margins* gets
        that of each part that has a term.
        """
        margin: float = self._without_terms
        for at, sum_ in enumerate(sums):
            total = sum_[0]
            if not total:
                continue
            index, content = (
                (at, parts[at].content) if views is None else (views[at].part, views[at].content)
            )
            role, bucket = parts[index].role, bisect_right(BUCKETS, len(content))
            cutoff = self._cutoffs.get(role, self._cutoff)
            own = total - cutoff.medium[bucket]
            margin = max(margin, own)
            margins[index] = max(margins.get(index, -math.inf), own)
            if total >= cutoff.least[bucket] and index not in types:
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


def _cutoff(model: Model, author: str, level: Threshold) -> _Cutoff:
    return _Cutoff(model.bars[author, level], model.bars[author, Threshold.MEDIUM])


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
