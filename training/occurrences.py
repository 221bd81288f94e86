"""Which terms are worth a weight, and where they occur in the texts."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.domain.guardrail_settings import InjectionKind
from sidecar.guardrails.cooperative import run_sync
from sidecar.guardrails.detectors.prompt_injection.model import PHRASE_MARK, PHRASES
from sidecar.guardrails.matching.database import compile_expressions, load_database
from sidecar.guardrails.matching.rule import Expression
from training.near_duplicates import words_of
from training.samples import Label, Sample

WINDOW_BYTES: Final = 480
"""Some 80 words: longer than most injections, shorter than most jailbreaks."""

MAX_BYTES: Final = 72_000
"""Of one text; a whole book would outweigh a corpus."""

MIN_WINDOWS: Final = 4
MIN_SOURCES: Final = 2
"""A term of one corpus alone tells the corpus, not the attack."""

MIN_LETTERS: Final = 4
MIN_RATIO: Final = 1.5
"""How much more frequent a term is in attacks."""


@dataclass(frozen=True, slots=True)
class Text:
    """A sample as its words, cut to a length, with all occurrences of terms: (end, term)."""

    sample: Sample
    words: bytes
    hits: tuple[tuple[int, int], ...] = ()

    def windows(self) -> Iterator[tuple[int, int]]:
        """Return the overlapping stretches that training looks at."""
        step = WINDOW_BYTES // 2
        for start in range(0, max(1, len(self.words) - step), step):
            yield start, start + WINDOW_BYTES


def read_texts(samples: Sequence[Sample]) -> tuple[Text, ...]:
    """Return the words of *samples*."""
    texts = (words_of(sample.text).encode()[:MAX_BYTES] for sample in samples)
    cut = (text if len(text) < MAX_BYTES else text[: text.rindex(b" ") + 1] for text in texts)
    return tuple(Text(sample, text) for sample, text in zip(samples, cut, strict=True))


def candidate_terms(texts: Sequence[Text]) -> tuple[str, ...]:
    """Return every phrase, and the one to three words that several attack corpora share."""
    seen: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    windows = Counter[bool]()
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for text in texts:
        is_attack = text.sample.is_attack
        for start, end in text.windows():
            terms = _terms(text.words[start:end])
            seen[is_attack].update(terms)
            windows[is_attack] += 1
            if is_attack:
                for term in terms:
                    sources[term].add(text.sample.source)
    attack_share = MIN_RATIO * windows[True] / windows[False]
    chosen = sorted(
        term
        for term, count in seen[True].items()
        if count >= MIN_WINDOWS
        and len(term) >= MIN_LETTERS
        and len(sources[term]) >= MIN_SOURCES
        and count > attack_share * seen[False][term]
    )
    return (*(PHRASE_MARK + phrase.name for phrase in PHRASES), *chosen)


def _terms(window: bytes) -> set[str]:
    words = window.decode("utf-8", "ignore").split()
    pairs = map(" ".join, itertools.pairwise(words))
    triples = map(" ".join, zip(words, words[1:], words[2:], strict=False))
    return {*words, *pairs, *triples}


def term_expressions(names: Iterable[str]) -> tuple[Expression, ...]:
    """Return the expressions of terms, over words, whose every match counts."""
    phrases = {PHRASE_MARK + phrase.name: phrase.regex for phrase in PHRASES}
    return tuple(Expression(phrases.get(name, f" {name} "), counted=True) for name in names)


def with_hits(texts: Sequence[Text], terms: Sequence[str]) -> tuple[Text, ...]:
    """Return *texts* with every occurrence of *terms*, found as the guardrail finds them."""
    expressions = term_expressions(terms)
    database = load_database(compile_expressions(expressions), expressions)
    return tuple(
        Text(
            text.sample,
            text.words,
            tuple(
                sorted(
                    (end, term)
                    for term, ends in run_sync(database.scan([text.words])).items()
                    for end in ends
                )
            ),
        )
        for text in texts
    )


_KINDS: Final = {
    Label.OVERRIDE: InjectionKind.INSTRUCTION_OVERRIDE,
    Label.JAILBREAK: InjectionKind.JAILBREAK,
    Label.EXTRACTION: InjectionKind.PROMPT_EXTRACTION,
    Label.ENCODED: InjectionKind.ENCODED_PAYLOAD,
}


def kinds_of(terms: Sequence[str], texts: Sequence[Text]) -> tuple[InjectionKind, ...]:
    """Return a kind a term: a phrase's own, else that in whose texts it is most frequent."""
    sizes = Counter[InjectionKind]()
    seen: defaultdict[int, Counter[InjectionKind]] = defaultdict(Counter)
    for text in texts:
        kind = _KINDS.get(text.sample.label)
        if kind is not None:
            sizes[kind] += 1
            for term in {term for _, term in text.hits}:
                seen[term][kind] += 1
    own = {PHRASE_MARK + phrase.name: phrase.kind for phrase in PHRASES}

    def share(index: int, kind: InjectionKind) -> float:
        return (seen[index][kind] + 0.5) / (sizes[kind] + len(InjectionKind))

    return tuple(
        own.get(term) or max(InjectionKind, key=lambda kind, at=index: share(at, kind))  # type: ignore[misc]  # the default binds the loop's value
        for index, term in enumerate(terms)
    )
