"""The `prompt_injection` guardrail: scores texts by the words and phrases in them."""

from __future__ import annotations

import math
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat
from typing import Final, TypeAlias

from typing_extensions import override

from sidecar.domain.cooperative import Cooperative
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.guardrail_settings import InjectionKind, PromptInjectionSettings, Threshold
from sidecar.domain.policy import Guardrail
from sidecar.domain.subject import TextPart
from sidecar.guardrails.detectors.prompt_injection.model import (
    BUCKETS,
    Author,
    Bars,
    Model,
    Weights,
    load_model,
)
from sidecar.guardrails.detectors.prompt_injection.term_search import (
    BORDER,
    INDEX,
    INDEX_BITS,
    SLICE_WORDS,
    Hit,
    TermSearch,
    words,
    words_of_joined,
)
from sidecar.guardrails.detectors.whole_text import Texts, WholeTextCheck, whole_parts
from sidecar.guardrails.matching.text_views import ONE_VIEW, TextView, ViewKind

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


def add_up(model: Model, weights: Weights, hits: Iterable[Hit], before: Sum | None = None) -> Sum:
    """Add up *hits*, which are in the order of the text and go on where those *before* ended.

    The *weights* are those of the text's author.
    """
    drift, span = model.drift, model.span
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


def kinds_of(model: Model, weights: Weights, sum_: Sum) -> tuple[InjectionKind, ...]:
    """Return the kinds that are a good part of a text's best passage, the greatest first."""
    total, best, length, *_ = sum_
    if not total:
        return ()
    sums = dict.fromkeys(InjectionKind, 0)
    for index in set(best[:length]):
        sums[model.terms[index].kind] += max(weights[index], 0)
    least = sum(sums.values()) * KIND_SHARE
    kinds = [kind for kind in sorted(sums, key=lambda kind: -sums[kind]) if sums[kind] >= least]
    if kinds[0] is _EXTRACTION and _OVERRIDE in kinds:  # an override is the means, then
        kinds.remove(_OVERRIDE)
        kinds.insert(0, _OVERRIDE)
    return tuple(kinds)


class Scorer:
    """A model ready to run. Bound to one thread, as its databases are."""

    def __init__(self, model: Model, *, compiled: bytes = b"") -> None:
        """Load the databases from *compiled*, if another process compiled them for this model."""
        self.model = model
        names = [term.name for term in model.terms]
        against = {term.name for term in model.terms if max(term.weight, term.indirect) <= 0}
        self.search = TermSearch(names, against=against, compiled=compiled)

    def sums(
        self, contents: Sequence[bytes], weights: Sequence[Weights]
    ) -> Cooperative[Sequence[Sum]]:
        """Add up each of *contents*, which are in their plain form, by its own *weights*.

        Short texts are searched in one call: to begin takes as long as a short text, and the
        database's tables would be fetched anew for each.
        """
        sums: list[Sum] = []
        short: list[bytes] = []
        room = SLICE_WORDS
        for content, own in zip(contents, weights, strict=True):
            room -= len(content)
            if room < 0:
                if short:
                    sums += self._add_up_short(short, weights[len(sums) :])
                    yield
                short, room = [], SLICE_WORDS - len(content)
            if room < 0:
                sum_: Sum | None = None
                for hits in self.search.hits_in_slices(content):
                    sum_ = add_up(self.model, own, hits, sum_) if hits else sum_
                    yield
                sums.append(sum_ or NO_TERMS)
                room = SLICE_WORDS
            else:
                short.append(content)
        return [*sums, *self._add_up_short(short, weights[len(sums) :])] if short else sums

    def _add_up_short(
        self, contents: Sequence[bytes], weights: Sequence[Weights]
    ) -> Sequence[Sum]:
        """Add up *contents*, the first of those that have these *weights*."""
        weights = weights[: len(contents)]
        joined = BORDER.join(contents)
        if joined.isascii() and not any(map(operator.contains, contents, repeat(BORDER))):
            return self.sums_of_joined(joined, weights)
        return self._sums_of_words(BORDER.join(map(words, contents)), weights)

    def sums_of_joined(self, joined: bytes, weights: Sequence[Weights]) -> Sequence[Sum]:
        """Add up each of the short texts that have a `BORDER` between them."""
        return self._sums_of_words(words_of_joined(joined), weights)

    def _sums_of_words(self, texts: bytes, weights: Sequence[Weights]) -> Sequence[Sum]:
        hits = self.search.hits(texts)
        if not hits:
            return [NO_TERMS] * len(weights)
        sums: list[Sum] = []
        start = end = 0
        for text, own in zip(texts.split(BORDER), weights, strict=True):
            end += len(text) + 1
            stop = bisect_left(hits, end << INDEX_BITS, start)
            # Where in the words a text begins makes no difference to its sum.
            found = self.search.combined(hits[start:stop]) if stop > start else ()
            sums.append(add_up(self.model, own, found) if found else NO_TERMS)
            start = stop
        return sums


def score(total: float, medium: int) -> float:
    """Return a sum as a score from 0 to 1; one half is at the threshold `medium`."""
    return 1 / (1 + math.exp((medium - total) / _THOUSAND))


_shipped: Final[list[Scorer]] = []


def shipped_scorer(compiled: bytes = b"") -> Scorer:
    """Return the shipped model's scorer, made once a process.

    To compile its databases takes a second; to load what was *compiled*, a tenth of one.
    """
    if not _shipped:
        _shipped.append(Scorer(load_model(), compiled=compiled))
    return _shipped[0]


INDIRECT_ROLES: Final = frozenset({"tool", "function"})
"""Roles of text that no user wrote: results of tools, and documents."""

SYSTEM_ROLES: Final = frozenset(
    {"system", "developer", "instructions", "systemInstruction", "system_instruction"}
)
"""Such text consists of rules for the model, so it takes more to be an attack.

It is itself the instructions to override and the prompt to extract: only a jailbreak counts.
"""

_SYSTEM_KINDS: Final = frozenset({InjectionKind.JAILBREAK})

_WORTH_READING: Final = frozenset(ViewKind) - {ViewKind.RAW, ViewKind.FOLDED, ViewKind.LEET}
"""Forms other than the part's own; words are without case anyway.

Leetspeak is read for terms alone. A policy without terms has no such views, and one guardrail's
results must not depend on another.
"""

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
        self._weights = model.weights[Author.USER]
        self._indirect = dict.fromkeys(INDIRECT_ROLES, model.weights[Author.TOOL])

    @property
    @override
    def reads_views(self) -> bool:
        return True

    @override
    def passing(self, guardrail: Guardrail) -> GuardrailResult:
        return GuardrailResult(guardrail, Verdict.PASS, score=_certainty(self._without_terms))

    @override
    def judge(
        self, parts: Sequence[TextPart], texts: Texts, passing: GuardrailResult
    ) -> GuardrailResult | Cooperative[GuardrailResult]:
        if not isinstance(texts, bytes):
            return self._judge_in_turns(parts, texts, passing)
        sums = self._scorer.sums_of_joined(texts, self._weights_of(parts))
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
        plain = {
            view.part
            for view in texts
            if view.kinds is not ONE_VIEW and ViewKind.PLAIN in view.kinds
        }
        # Each part once, in its plain form if that is another, and the text hidden in it.
        views = (
            view
            for view in texts
            if view.kinds is ONE_VIEW  # mostly; an enum's members are hashed in Python (3.11)
            or not view.kinds.isdisjoint(_WORTH_READING)
            or (ViewKind.RAW in view.kinds and view.part not in plain)
        )
        while some := tuple(islice(views, _PARTS_A_STEP)):
            weights = self._weights_of([parts[view.part] for view in some])
            sums = yield from self._scorer.sums([view.content for view in some], weights)
            margin = max(margin, self._weigh(parts, some, sums, types, margins))
            if len(some) == _PARTS_A_STEP:
                yield
        return _result(parts, types, passing, margin, margins)

    def _weights_of(self, parts: Sequence[TextPart]) -> Sequence[Weights]:
        return [self._indirect.get(part.role, self._weights) for part in parts]

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
                weights = self._indirect.get(role, self._weights)
                kinds = kinds_of(self._scorer.model, weights, sum_)
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
