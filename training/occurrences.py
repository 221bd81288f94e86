"""Which terms are worth a weight, and where they occur in the texts."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from sidecar.domain.guardrail_settings import InjectionKind
from sidecar.guardrails.detectors.prompt_injection.model import (
    AUTHORS,
    BUCKETS,
    CONCEPTS,
    Author,
)
from sidecar.guardrails.detectors.prompt_injection.term_search import (
    INDEX,
    INDEX_BITS,
    TermSearch,
)
from training.near_duplicates import words_of
from training.samples import Label, Sample

WINDOW_BYTES: Final = 480
"""Some 80 words: longer than most injections, shorter than most jailbreaks."""

MAX_BYTES: Final = 160_000
"""Of one text."""

MIN_WINDOWS: Final = 10
MIN_FAMILIES: Final = 4
"""A term of few families tells the family, not the attack."""

MIN_LETTERS: Final = 4
MIN_RATIO: Final = 3.0
"""How much more frequent a term is in attacks."""

MOST_TERMS: Final = 16_000
"""Of words; the most frequent ones."""

MOST_CONCEPTS: Final = 3
"""That a term combines."""

PART: Final = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]{2,}")
"""Text of a script without spaces."""
_PART_LENGTHS: Final = range(2, 6)
"""Characters of terms in scripts without spaces."""

Array = np.ndarray[Any, np.dtype[Any]]


def _no_hits() -> Array:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Text:
    """A sample as its words, cut to a length, with all occurrences of terms, as `Hit`s."""

    sample: Sample
    words: bytes
    hits: Array = field(default_factory=_no_hits)

    def windows(self) -> Iterator[tuple[int, int]]:
        """Return the overlapping stretches that training looks at."""
        step = WINDOW_BYTES // 2
        for start in range(0, max(1, len(self.words) - step), step):
            yield start, start + WINDOW_BYTES

    def terms(self) -> Array:
        """Return the indexes of the terms in it, each once."""
        return np.unique(self.hits & INDEX)


def read_texts(samples: Sequence[Sample]) -> tuple[Text, ...]:
    """Return the words of *samples*."""
    texts = (words_of(sample.text).encode()[:MAX_BYTES] for sample in samples)
    cut = (text if len(text) < MAX_BYTES else text[: text.rindex(b" ") + 1] for text in texts)
    return tuple(Text(sample, text) for sample, text in zip(samples, cut, strict=True))


def candidate_terms(texts: Sequence[Text]) -> tuple[str, ...]:
    """Return combinations of concepts, and the few words that several families share."""
    seen: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    windows = Counter[bool]()
    families: defaultdict[str, set[str]] = defaultdict(set)
    for text in sorted(texts, key=lambda text: not text.sample.is_attack):
        is_attack = text.sample.is_attack
        for start, end in text.windows():
            terms = _terms(text.words[start:end])
            windows[is_attack] += 1
            if is_attack:
                seen[True].update(terms)
                for term in terms:
                    families[term].add(text.sample.family)
            else:  # only those that may be chosen: most words are of harmless texts alone
                seen[False].update(terms & families.keys())
    attack_share = MIN_RATIO * windows[True] / windows[False]
    chosen = [
        term
        for term, count in seen[True].items()
        if count >= MIN_WINDOWS
        and len(families[term]) >= MIN_FAMILIES
        and count > attack_share * seen[False][term]
    ]
    chosen = sorted(sorted(chosen, key=lambda term: (-len(families[term]), term))[:MOST_TERMS])
    combinations = itertools.chain.from_iterable(
        itertools.combinations(CONCEPTS, count) for count in range(1, MOST_CONCEPTS + 1)
    )
    return (*chosen, *(" ".join(map("{%s}".__mod__, names)) for names in combinations))


def _terms(window: bytes) -> set[str]:
    text = window.decode("utf-8", "ignore")
    words = [word for word in text.split() if not PART.search(word)]
    pairs = map(" ".join, itertools.pairwise(words))
    triples = map(" ".join, zip(words, words[1:], words[2:], strict=False))
    spaced = {term for term in (*words, *pairs, *triples) if len(term) >= MIN_LETTERS}
    parts = {
        run[at : at + length]
        for run in PART.findall(text)
        for length in _PART_LENGTHS
        for at in range(len(run) - length + 1)
    }
    return spaced | parts


def with_hits(texts: Sequence[Text], terms: Sequence[str]) -> tuple[Text, ...]:
    """Return *texts* with every occurrence of *terms*, found as the guardrail finds them."""
    search = TermSearch(terms, has_rare=False)
    return tuple(
        Text(text.sample, text.words, np.array(search.combined(search.hits(text.words)), np.int64))
        for text in texts
    )


def ends_of(hits: Array) -> Array:
    """Return where in the words the terms of *hits* end."""
    return hits >> INDEX_BITS


def author_of(sample: Sample) -> str:
    """Return the group of roles that *sample* belongs to."""
    return sample.role if sample.role in AUTHORS else Author.USER


def bucket_of(size: int) -> int:
    """Return the bucket of lengths of a text of *size* bytes."""
    return int(np.searchsorted(BUCKETS, size, side="right"))


_KINDS: Final = {
    Label.OVERRIDE: InjectionKind.INSTRUCTION_OVERRIDE,
    Label.INDIRECT: InjectionKind.INSTRUCTION_OVERRIDE,
    Label.JAILBREAK: InjectionKind.JAILBREAK,
    Label.EXTRACTION: InjectionKind.PROMPT_EXTRACTION,
    Label.ENCODED: InjectionKind.ENCODED_PAYLOAD,
}


_KINDS_OF_CONCEPTS: Final = {
    "{ignore}": InjectionKind.INSTRUCTION_OVERRIDE,
    "{prompt}": InjectionKind.PROMPT_EXTRACTION,
    "{free}": InjectionKind.JAILBREAK,
    "{role}": InjectionKind.JAILBREAK,
    "{devmode}": InjectionKind.JAILBREAK,
}
"""Concepts that say the kind of a term, the first one if it has several."""


def kinds_of(terms: Sequence[str], texts: Sequence[Text]) -> tuple[InjectionKind, ...]:
    """Return the kind of each term: that of its concepts, or of the texts that have it most."""
    sizes = Counter[InjectionKind]()
    seen = {kind: np.zeros(len(terms)) for kind in InjectionKind}
    for text in texts:
        kind = _KINDS.get(text.sample.label)
        if kind is not None:
            sizes[kind] += 1
            seen[kind][text.terms()] += 1
    kinds = tuple(InjectionKind)
    shares = np.array([(seen[kind] + 0.5) / (sizes[kind] + 50) for kind in kinds])
    known = [
        next((kind for concept, kind in _KINDS_OF_CONCEPTS.items() if concept in term), None)
        for term in terms
    ]
    frequent = np.argmax(shares, axis=0).tolist()
    return tuple(kind or kinds[number] for kind, number in zip(known, frequent, strict=True))
