from __future__ import annotations

import re

import pytest

from sidecar.domain.guardrail_settings import InjectionKind, Threshold
from sidecar.guardrails.detectors.prompt_injection.model import (
    PHRASES,
    Model,
    ModelError,
    Term,
    load_model,
    read_model,
    read_phrases,
    write_model,
)

THRESHOLDS = {Threshold.LOW: 1, Threshold.MEDIUM: 2, Threshold.HIGH: 3}
MODEL = Model(
    terms=(Term("do anything", InjectionKind.JAILBREAK, 700),),
    drift=5,
    span=480,
    thresholds=THRESHOLDS,
    system_thresholds=THRESHOLDS,
)


def test_the_shipped_model_is_whole() -> None:
    """Its checksum fits, no weight is negative, and thresholds rise."""
    model = load_model()
    assert len(model.terms) > 1000
    assert all(term.weight > 0 for term in model.terms)
    assert len({term.name for term in model.terms}) == len(model.terms)
    for table in (model.thresholds, model.system_thresholds):
        assert 0 < table[Threshold.LOW] < table[Threshold.MEDIUM] < table[Threshold.HIGH]
    assert write_model(model) == write_model(read_model(write_model(model)))


def test_a_term_is_words_as_the_guardrail_sees_them() -> None:
    """A term with anything else in it could never be found."""
    terms = (term.name for term in load_model().terms if not term.name.startswith("@"))
    assert all(re.fullmatch(r"\w+(?: \w+){0,2}", term) and "_" not in term for term in terms)


def test_no_term_alone_reaches_the_default_threshold() -> None:
    """Neither a word nor a phrase is an attack by itself."""
    model = load_model()
    assert max(term.weight for term in model.terms) < model.thresholds[Threshold.MEDIUM]


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        pytest.param("700", "900", id="another weight"),
        pytest.param("sha256:", "sha256:0", id="another checksum"),
        pytest.param("\n", "", id="no lines"),
    ],
)
def test_a_changed_file_is_refused(written: str, instead: str) -> None:
    """A model is reviewed as it was trained, or not loaded."""
    with pytest.raises(ModelError, match="checksum"):
        read_model(write_model(MODEL).replace(written, instead))


def test_a_model_of_other_phrases_is_refused() -> None:
    """A weight for a phrase that is gone would be a weight for nothing."""
    odd = Model(
        (Term("@no such phrase", InjectionKind.JAILBREAK, 1),), 5, 480, THRESHOLDS, THRESHOLDS
    )
    with pytest.raises(ModelError, match="phrases"):
        read_model(write_model(odd))


def test_phrases_are_read_from_lists_gaps_and_alternatives() -> None:
    """The file's notation becomes an expression over words."""
    (phrase,) = read_phrases(
        "# a comment\nlist say: say\n  print\nkind jailbreak\nsay it: <say> ~2 (now|then)\n"
    )
    assert phrase.kind is InjectionKind.JAILBREAK
    assert phrase.name == "say it"
    assert re.search(phrase.regex, " please print it twice now ")
    assert not re.search(phrase.regex, " print it twice or thrice now ")
    assert not re.search(phrase.regex, " essay now ")
    assert not phrase.anchors


def test_an_anchor_is_the_part_up_to_the_next_gap() -> None:
    """Texts without it are not searched for the phrase, whose longest match limits the search."""
    (phrase,) = read_phrases(
        "list say: say print\nkind jailbreak\n"
        "say it: (do|go on and) ~2 !<say> (it |this )?now ~1 or else\n"
    )
    (anchor,) = phrase.anchors
    assert re.fullmatch(anchor, " print it now ")
    assert re.search(phrase.regex, " go on and please print it now you or else ")
    longest = "go on and a b print it now c or else"
    assert re.search(phrase.regex, f" {longest} ")
    assert phrase.most_words == longest.count(" ") + 1


@pytest.mark.parametrize("choice", ["<<say>>", "((say|print))"])
def test_a_split_choice_is_an_expression_for_each_word(choice: str) -> None:
    """Together they match the same texts as the one expression."""
    (phrase,) = read_phrases(f"list say: say print\nkind jailbreak\nsay it: do ~1 {choice} it\n")
    texts = [" do say it ", " do please print it ", " do it "]
    assert len(phrase.split) == 2
    assert [re.search(phrase.regex, text) is not None for text in texts] == [True, True, False]
    assert [any(re.search(one, text) for one in phrase.split) for text in texts] == [
        True,
        True,
        False,
    ]


def test_phrase_names_are_unique() -> None:
    """A model tells phrases by their names."""
    assert len({phrase.name for phrase in PHRASES}) == len(PHRASES) == 60
