"""The shared database: its scan, its controls, and how it is stored."""

from __future__ import annotations

import pytest

from sidecar.domain.cooperative import SLICE_BYTES, run_sync
from sidecar.guardrails.matching.database import (
    SEPARATOR,
    CompileError,
    ExpressionDatabase,
    author_expression,
    compile_expressions,
    load_database,
    syntax_problem,
)
from sidecar.guardrails.matching.rule import Expression

EXPRESSIONS = (Expression("PRJ-[0-9]{4}"), Expression("ab", counted=True))


@pytest.fixture(scope="module")
def database() -> ExpressionDatabase:
    return load_database(compile_expressions(EXPRESSIONS), EXPRESSIONS)


def test_a_match_is_reported_with_its_end(database: ExpressionDatabase) -> None:
    """The first one of an expression, and every one of an expression that is counted."""
    hits = run_sync(database.scan([b"ab PRJ-1234", b"PRJ-5678 ab"]))
    assert hits == {0: [11], 1: [2, 23]}
    assert database.scan_short(SEPARATOR.join([b"ab PRJ-1234", b"PRJ-5678 ab"])) == hits


def test_a_match_across_two_slices_is_found(database: ExpressionDatabase) -> None:
    """A long text is one stream, wherever it is cut."""
    text = b"x" * (SLICE_BYTES - 4) + b"PRJ-1234"
    assert run_sync(database.scan([text])) == {0: [len(text)]}


def test_no_match_goes_over_two_texts(database: ExpressionDatabase) -> None:
    """The separator is part of no expression."""
    assert run_sync(database.scan([b"PRJ-", b"1234"])) == {}


@pytest.mark.parametrize("padding", [0, 10_000])
def test_control_characters_are_found_in_texts_of_any_length(
    database: ExpressionDatabase, padding: int
) -> None:
    """A short text is searched by a table, a long one by a database."""
    text = b"x" * padding
    assert database.has_controls(text + b"a\x07b")
    assert not database.has_controls(text + b"a\t\r\n\x00b")
    plain, separated = text + b"a\t\r\nb", text + b"a\x00b"
    assert database.have_one_view([plain, plain], SEPARATOR.join([plain, plain]))
    assert not database.have_one_view([separated], separated)


def test_databases_compiled_apart_can_be_searched_apart_by_the_same_ids() -> None:
    """Whole texts are searched again for words alone, which most expressions are not."""
    core, words, others = (
        load_database(compile_expressions(own), own)
        for own in ((Expression("core"),), (Expression("word"),), (Expression("other"),))
    )
    every = core.beside((words, others))
    text = b"core word other"
    assert every.scan_short(text) == {0: [4], 1: [9], 2: [15]}
    assert every.of({Expression("word")}).scan_short(text) == {1: [9]}
    assert every.of({Expression("core"), Expression("other")}).scan_short(text) == {
        0: [4],
        2: [15],
    }
    assert every.of(()).scan_short(text) == {}


def test_a_database_of_other_expressions_is_refused() -> None:
    """Ids would mean other rules."""
    with pytest.raises(CompileError, match="other policies"):
        load_database(compile_expressions(EXPRESSIONS), EXPRESSIONS[:1])


@pytest.mark.parametrize(
    ("regex", "is_filtered"),
    [
        ("PRJ-[0-9]{4}", True),
        ("^start", False),
        ("end$", False),
        (r"\AAB", False),
        (r"\S+@", False),
        (r"a\sb", True),
        (r"[\s,]", False),
        ("[^^]x", True),
        ("[]$]x", True),
        (r"\$5", True),
        (r"\p{Lu}{3}", False),
        (r"[^\PL]7", False),
        ("Ж7", True),
        ("(?i)Ж7", False),
        (r"(?si:a\x{10D0})", False),
        ("(?i)[a-龥]7", False),
        ("(?i)größe", True),
        ("(?i)机密|secret", True),
    ],
)
def test_an_expression_that_two_engines_read_differently_is_not_filtered(
    regex: str, *, is_filtered: bool
) -> None:
    """Anchors and white space differ in texts that are scanned together, Unicode by its age."""
    assert author_expression(regex).filtered is is_filtered


@pytest.mark.parametrize(
    ("regex", "problem"),
    [
        ("(?=a)b", "look-around is not supported: RE2 runs in linear time"),
        ("a" * 1_001, "longer than 1000 characters"),
        ("a*", "matches empty text, so it would match everywhere"),
        ("a+b", None),
    ],
)
def test_the_problem_with_an_expression_is_named(regex: str, problem: str | None) -> None:
    """In words for the policy's author."""
    assert syntax_problem(regex) == problem
