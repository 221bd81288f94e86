"""Scores of texts by models that have not seen their family, and bars that follow from them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sidecar.domain.guardrail_settings import Threshold
from sidecar.guardrails.detectors.prompt_injection import model as model_module
from sidecar.guardrails.detectors.prompt_injection.model import (
    AUTHORS,
    BUCKETS,
    CONCEPT,
    Author,
    Bars,
    Model,
    Term,
)
from sidecar.guardrails.detectors.prompt_injection.scoring import add_up
from sidecar.guardrails.detectors.prompt_injection.term_search import INDEX
from training.fit import DRIFT, THOUSAND, Form, Windows, fit, windows_of
from training.occurrences import (
    WINDOW_BYTES,
    Array,
    Text,
    author_of,
    bucket_of,
    candidate_terms,
    kinds_of,
    read_texts,
    with_hits,
)
from training.samples import CORPORA, FOLDS, SAMPLES, Kind, Sample, fold_of

MODEL: Final = Path(model_module.__file__).with_name(model_module.FILE)
SUMS: Final = CORPORA / "unseen_sums.json"
_OF: Final = "of"
_SUMS: Final = "sums"

FALSE_POSITIVES: Final = {Threshold.LOW: 0.04, Threshold.MEDIUM: 0.01, Threshold.HIGH: 0.0003}
"""The share of harmless texts over each bar, each text by a model without its family."""

ALLOWANCES: Final = {Kind.ROLE_PLAY: 1.1, Kind.TRIGGER_WORDS: 2.3, Kind.ABOUT_INJECTION: 10.0}
"""As many times that share, of kinds that have much in common with attacks or quote them."""

SHORT_ALLOWANCES: Final = {Kind.ROLE_PLAY: ((512, 2.5),)}
"""The same of texts of fewer bytes: a line or two that has the words of a request."""

LONG_ALLOWANCE: Final = 2.0
"""The same of all texts from 16 KB on, a quarter system messages that never reach their bar."""

MOST_ALLOWED: Final[Mapping[Kind | None, float]] = {Kind.ABOUT_INJECTION: 0.4}
"""The greatest share of a kind over `low`."""

_MOST_ALLOWED: Final = 0.1

WITHOUT_BARS: Final = frozenset({Kind.PACKED})
"""Kinds that have little but the words of attacks: no bar goes by them."""

IN_DOCUMENTS: Final = frozenset({"user", "done", "besides", "before", "pay"})
"""Concepts of orders in documents: a user who writes of "the user" sets up a role, mostly."""

ROLES: Final = "role-prompts"
"""A family that is of system prompts, and of users as well: a role to play."""

LEAST_BUCKETS: Final = {Author.USER: 0, Author.TOOL: 1, Author.SYSTEM: 3}
"""The first bucket of each: few texts are shorter."""

FEW_FROM: Final = 4
"""The bucket from which on texts are few: its bar is at most twice as high as those before, and
the next ones three quarters higher than that."""

ENOUGH: Final[Mapping[Kind | None, int]] = {Kind.ABOUT_INJECTION: 150, Kind.TRIGGER_WORDS: 1000}
"""Texts of a kind and length, from which on it has a say of its own in a bar.

Of results of tools with the words of attacks there are fewer, and none that is real.
"""

_ENOUGH: Final = 200

_NO_BARS: Final = {
    (author, level): (0,) * (len(BUCKETS) + 1) for author in AUTHORS for level in Threshold
}


@dataclass(frozen=True, slots=True)
class Corpus:
    """All texts with their terms, and the fold in which each is left out.

    `of_users` says of which windows the weights for texts of users are learned: not of attacks in
    results of tools. Those for results of tools are learned of all.
    """

    texts: Sequence[Text]
    terms: Sequence[str]
    windows: Windows
    folds: Array
    of_users: Array


def read_corpus(samples: Sequence[Sample]) -> Corpus:
    """Search the terms in all *samples*, and divide their families into folds."""
    read = read_texts(samples)
    terms = candidate_terms(read)
    texts = with_hits(read, terms)
    folds = np.array([fold_of(text.sample.family) for text in texts])
    windows = windows_of(texts)
    in_tools = np.array([author_of(text.sample) == Author.TOOL for text in texts])
    return Corpus(texts, terms, windows, folds, ~(windows.is_attack & in_tools[windows.texts]))


def train(corpus: Corpus, without: int | None = None, form: Form = str.strip) -> Model:
    """Return a model of a *form*, without bars, of all texts but those of one fold."""
    seen = corpus.folds[corpus.windows.texts] != (-1 if without is None else without)
    weights = (
        fit(
            corpus.windows,
            corpus.terms,
            seen & corpus.of_users,
            lambda term: _weighs_for_users(term) and form(term),
        ),
        fit(corpus.windows, corpus.terms, seen, form),
    )
    columns = [[round(float(weight) * THOUSAND) for weight in column] for column in weights]
    kinds = kinds_of(corpus.terms, corpus.texts)
    chosen = (
        Term(name, kind, weight, indirect)
        for name, kind, weight, indirect in zip(corpus.terms, kinds, *columns, strict=True)
        if weight or indirect
    )
    return Model(tuple(chosen), DRIFT, WINDOW_BYTES, _NO_BARS)


def _weighs_for_users(term: str) -> bool:
    return IN_DOCUMENTS.isdisjoint(CONCEPT.findall(term))


def unseen_sums(corpus: Corpus, form: Form = str.strip) -> Iterator[Mapping[int, int]]:
    """Yield the sums of the texts of each fold, by a model that was trained without it."""
    for fold in range(FOLDS):
        model = train(corpus, fold, form)
        kept = kept_terms(corpus, model)
        members = np.flatnonzero(corpus.folds == fold).tolist()
        yield {one: _total(model, corpus.texts[one], kept) for one in members}


def _total(model: Model, text: Text, kept: Array) -> int:
    weights = model.weights[author_of(text.sample)]
    return add_up(model, weights, own_hits(text, kept))[0]


def kept_terms(corpus: Corpus, model: Model) -> Array:
    """Return the numbers in the corpus of the terms of *model*."""
    numbers = {name: number for number, name in enumerate(corpus.terms)}
    return np.array([numbers[term.name] for term in model.terms])


def own_hits(text: Text, kept: Array) -> list[int]:
    """Return the hits of *text* by their numbers in a model that has *kept* these terms."""
    order = np.argsort(kept)
    terms = text.hits & INDEX
    at = np.minimum(np.searchsorted(kept, terms, sorter=order), len(kept) - 1)
    found = order[at]
    is_kept = kept[found] == terms
    own: list[int] = ((text.hits - terms + found)[is_kept]).tolist()
    return own


def write_sums(sums: Mapping[int, int]) -> None:
    """Store the *sums* of unseen texts beside the corpora, for the model and samples there are."""
    ordered = [sums[number] for number in range(len(sums))]
    SUMS.write_text(json.dumps({_OF: _present(), _SUMS: ordered}), encoding="utf-8")


def stored_sums() -> Mapping[int, int] | None:
    """Return the sums that were stored with the present model and samples, if there are any."""
    stored = json.loads(SUMS.read_text(encoding="utf-8")) if SUMS.exists() else {}
    return dict(enumerate(stored[_SUMS])) if stored.get(_OF) == _present() else None


def _present() -> str:
    return hashlib.sha256(MODEL.read_bytes() + SAMPLES.read_bytes()).hexdigest()


def bars_of(
    samples: Sequence[Sample], sums: Mapping[int, int]
) -> Mapping[tuple[str, Threshold], Bars]:
    """Return the bars that harmless texts reach no more often than they may.

    That holds for all texts of a length without a greater allowance, and for each kind that has
    enough of them. Rules are the subject of system messages: their bars are half as high again as
    those of users.
    """
    groups = _groups(samples, sums)
    bars: dict[tuple[str, Threshold], Bars] = {}
    for author in AUTHORS:
        for level, share in FALSE_POSITIVES.items():
            least_sums = [
                max(
                    (
                        _quantile(
                            group, min(share * allowance, MOST_ALLOWED.get(kind, _MOST_ALLOWED))
                        )
                        for (of, at, kind, allowance), group in groups.items()
                        if (of, at) == (author, max(bucket, LEAST_BUCKETS[author]))
                        and (kind is None or len(group) >= ENOUGH.get(kind, _ENOUGH))
                    ),
                    default=0,
                )
                for bucket in range(len(BUCKETS) + 1)
            ]
            most = max(least_sums[:FEW_FROM]) * 2
            for at in range(FEW_FROM, len(least_sums)):
                least_sums[at] = min(least_sums[at], most)
                most = least_sums[FEW_FROM] * 7 // 4
            bars[author, level] = tuple(int(one) for one in np.maximum.accumulate(least_sums))
    for level in FALSE_POSITIVES:
        pairs = zip(bars[Author.SYSTEM, level], bars[Author.USER, level], strict=True)
        bars[Author.SYSTEM, level] = tuple(max(own, user * 3 // 2) for own, user in pairs)
    return bars


_Group = tuple[str, int, Kind | None, float]
"""Author, bucket, kind (or all of them) and allowance of harmless texts."""


def _groups(samples: Sequence[Sample], sums: Mapping[int, int]) -> Mapping[_Group, Sequence[int]]:
    groups: defaultdict[_Group, list[int]] = defaultdict(list)
    for number, total in sums.items():
        sample = samples[number]
        if not sample.is_attack and sample.kind not in WITHOUT_BARS:
            size = len(sample.text.encode("utf-8", "replace"))
            allowance = _allowance(sample.kind, size)
            author, bucket = author_of(sample), bucket_of(size)
            own = max(bucket, LEAST_BUCKETS[author])
            groups[author, own, sample.kind, allowance].append(total)
            if allowance <= 1:
                groups[author, own, None, LONG_ALLOWANCE if own == len(BUCKETS) else 1.0].append(
                    total
                )
            if sample.family == ROLES:
                allowance = _allowance(Kind.ROLE_PLAY, size)
                groups[Author.USER, bucket, Kind.ROLE_PLAY, allowance].append(total)
    return groups


def _allowance(kind: Kind, size: int) -> float:
    short = (allowance for below, allowance in SHORT_ALLOWANCES.get(kind, ()) if size < below)
    return next(short, ALLOWANCES.get(kind, 1.0))


def _quantile(sums: Sequence[int], share: float) -> int:
    return sorted(sums)[int(len(sums) * (1 - share))] + 1
