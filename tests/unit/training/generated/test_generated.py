from __future__ import annotations

from collections import defaultdict

import pytest

from training.generated import generated_samples
from training.near_duplicates import words_of
from training.samples import Sample, Split

MAX_TEXTS = 60_000
MAX_BYTES = 40_000


@pytest.fixture(scope="module")
def samples() -> tuple[Sample, ...]:
    return tuple(generated_samples())


def test_every_run_gives_the_same_texts(samples: tuple[Sample, ...]) -> None:
    """Training is deterministic, so its texts must be."""
    assert tuple(generated_samples()) == samples


def test_every_kind_and_language_has_two_families(samples: tuple[Sample, ...]) -> None:
    """One family is left out, and the other shows whether the model learned more than words."""
    variants = defaultdict[str, set[str]](set)
    for sample in samples:
        stem, _, variant = sample.family.rpartition("-")
        variants[stem].add(variant)
    assert {stem: found for stem, found in variants.items() if not found >= {"a", "b"}} == {}


def test_no_attack_has_the_words_of_a_harmless_text(samples: tuple[Sample, ...]) -> None:
    """A text has one label."""
    harmless = {words_of(sample.text) for sample in samples if not sample.is_attack}
    both = [one.text for one in samples if one.is_attack and words_of(one.text) in harmless]
    assert both == []


def test_slots_are_filled_and_sizes_are_bounded(samples: tuple[Sample, ...]) -> None:
    """Half-filled templates would be learned as they are."""
    assert len(samples) < MAX_TEXTS
    for sample in samples:
        assert 0 < len(sample.text.encode()) < MAX_BYTES
        assert not {"$", "@"} & set(sample.text[-1:]), sample.text
        assert sample.split is Split.TRAIN
        assert sample.family
