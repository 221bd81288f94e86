"""Globs and times that documents and commands accept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sidecar.domain.validation import compile_glob, is_accepted


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-?", "gpt-5", True),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a.c", "abc", False),
        ("*" * 40 + "x", "a" * 4_000, False),
    ],
    ids=["prefix", "whole name", "one character", "no class", "a bracket", "a dot", "many stars"],
)
def test_a_glob_matches_whole_names_by_its_two_wildcards(
    glob: str, name: str, *, matches: bool
) -> None:
    """Every other character stands for itself."""
    assert (compile_glob(glob).match(name) is not None) is matches


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), True),
        (datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=1))), False),
        (datetime(9998, 12, 31, 23, 59, tzinfo=UTC), True),
        (datetime(9999, 1, 1, tzinfo=UTC), False),
    ],
)
def test_a_time_is_accepted_if_every_time_zone_can_show_it(
    moment: datetime, *, expected: bool
) -> None:
    """Python ends with the year 9999 and PostgreSQL does not."""
    assert is_accepted(moment) is expected
