from __future__ import annotations

import pytest

from sidecar.domain.guardrail_settings import InjectionKind, Threshold
from sidecar.guardrails.detectors.prompt_injection.model import (
    AUTHORS,
    BUCKETS,
    CONCEPT,
    CONCEPTS,
    Model,
    ModelError,
    Term,
    load_model,
    read_concepts,
    read_model,
    write_model,
)
from sidecar.guardrails.detectors.prompt_injection.term_search import (
    CONCEPT_BITS,
    FIRST_CONCEPT,
    INDEX,
    words,
)

BARS = {(author, level): (1, 2, 3, 4) for author in AUTHORS for level in Threshold}
MODEL = Model((Term("do anything", InjectionKind.JAILBREAK, 700, 300),), 5, 480, BARS)


def test_the_shipped_model_is_whole() -> None:
    """Its checksum fits, no term is there twice, and none weighs less than -1."""
    model = load_model()
    assert len(model.terms) > 1000
    assert all(term.weight or term.indirect for term in model.terms)
    assert all(min(term.weight, term.indirect) >= -1000 for term in model.terms)
    assert len({term.name for term in model.terms}) == len(model.terms)
    assert write_model(model) == write_model(read_model(write_model(model)))


@pytest.mark.parametrize("author", AUTHORS)
def test_bars_rise_with_the_threshold_and_with_the_length(author: str) -> None:
    """A long text has more chances to reach a bar."""
    rows = [load_model().bars[author, level] for level in Threshold]
    assert [len(row) for row in rows] == [len(BUCKETS) + 1] * len(Threshold)
    assert all(row[0] > 0 and list(row) == sorted(row) for row in rows)
    assert all(list(column) == sorted(column) for column in zip(*rows, strict=True))


def test_a_term_is_words_as_the_guardrail_sees_them() -> None:
    """A term with anything else in it could never be found."""
    terms = [term.name for term in load_model().terms if not CONCEPT.search(term.name)]
    assert all(words(term.encode()) == f" {term} ".encode() for term in terms)


def test_no_term_alone_reaches_the_default_threshold() -> None:
    """Neither a word nor a combination of concepts is an attack by itself."""
    model = load_model()
    for author in AUTHORS:
        assert max(model.weights[author]) < model.bars[author, Threshold.MEDIUM][0]


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        pytest.param("700", "900", id="another weight"),
        pytest.param("300", "900", id="another weight in results of tools"),
        pytest.param("sha256:", "sha256:0", id="another checksum"),
        pytest.param("\n", "", id="no lines"),
    ],
)
def test_a_changed_file_is_refused(written: str, instead: str) -> None:
    """A model is reviewed as it was trained, or not loaded."""
    with pytest.raises(ModelError, match="checksum"):
        read_model(write_model(MODEL).replace(written, instead))


def test_a_model_of_other_concepts_is_refused() -> None:
    """A weight for a concept that is gone would be a weight for nothing."""
    odd = Model((Term("{no} {such}", InjectionKind.JAILBREAK, 1, 0),), 5, 480, BARS)
    with pytest.raises(ModelError, match="concepts"):
        read_model(write_model(odd))


def test_concepts_are_read_with_continued_lines() -> None:
    """Each word is read once, as it is written."""
    text = "# a comment: nothing\nsay: say print*\n  say no_longer\n\nrole: act\n"
    assert read_concepts(text) == {"say": ("say", "print*", "no_longer"), "role": ("act",)}


def test_concepts_fit_into_the_indexes_kept_for_them() -> None:
    """Indexes above those of terms are words of concepts."""
    assert 0 < len(CONCEPTS) < 1 << CONCEPT_BITS <= INDEX - FIRST_CONCEPT
