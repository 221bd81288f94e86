"""Keeps what is trained on apart from what is tested on, and each text once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from sidecar.guardrails.detectors.prompt_injection.term_search import words
from sidecar.guardrails.matching.text_views import plain
from training.samples import Sample, Split

SHINGLE_WORDS: Final = 5
SHARED: Final = 0.5
"""A training text that shares half of its shingles, or of a test text's, is left out."""


def without_duplicates(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Return each text once, test sources first, and no training text close to a test text."""
    ordered = sorted(samples, key=lambda sample: sample.split is not Split.TEST)  # stable
    seen: set[str] = set()
    tested: dict[int, frozenset[bytes]] = {}
    having: defaultdict[bytes, list[int]] = defaultdict(list)
    for number, sample in enumerate(ordered):
        text = words_of(sample.text)
        if not text.strip() or text in seen:
            continue
        seen.add(text)
        shingles = _shingles(text)
        if sample.split is Split.TEST:
            tested[number] = shingles
            for shingle in shingles:
                having[shingle].append(number)
        elif _is_close(shingles, tested, having):
            continue
        yield sample


def words_of(text: str) -> str:
    """Return the words of *text* as the guardrail sees them."""
    content = text.encode("utf-8", "replace").decode()
    return words(content.encode() if content.isascii() else plain(content).encode()).decode()


def _is_close(
    shingles: frozenset[bytes],
    tested: dict[int, frozenset[bytes]],
    having: defaultdict[bytes, list[int]],
) -> bool:
    shared = Counter(other for one in shingles for other in having.get(one, ()))
    return any(
        count >= SHARED * min(len(shingles), len(tested[other])) for other, count in shared.items()
    )


def _shingles(text: str) -> frozenset[bytes]:
    """Return hashes of all runs of five words; Python's own hashes differ from run to run."""
    found = text.split()
    runs = (found[at : at + SHINGLE_WORDS] for at in range(max(1, len(found) - SHINGLE_WORDS + 1)))
    return frozenset(
        hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest() for run in runs
    )
