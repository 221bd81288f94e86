"""Globs and times that documents and commands accept."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta, timezone

import pytest

from sidecar.domain.validation import (
    accepted,
    compile_glob,
    fault_of_models,
    fault_of_operations,
    is_accepted,
    is_glob_within,
    is_private_address,
    is_refused_address,
    is_text,
    is_time_zone,
)


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-?", "gpt-5", True),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a.c", "abc", False),
        ("Qwen/*", "qwen/QWEN3", True),
        ("\u212a*", "kimi", False),
        ("k*", "\u212aimi", False),
        ("*" * 40 + "x", "a" * 4_000, False),
    ],
    ids=[
        "prefix",
        "whole name",
        "one character",
        "no class",
        "a bracket",
        "a dot",
        "any case",
        "a Kelvin sign is no k",
        "nor k one",
        "many stars",
    ],
)
def test_a_glob_matches_whole_names_by_its_two_wildcards(
    glob: str, name: str, *, matches: bool
) -> None:
    """Every other character stands for itself."""
    assert (compile_glob(glob).match(name) is not None) is matches


@pytest.mark.parametrize("glob", ["", "a\nb", "\0", "\x7f", "x" * 201, "\udcff"])
def test_a_glob_that_can_be_no_models_has_a_fault(glob: str) -> None:
    fault = fault_of_models(["gpt-*", glob])

    assert fault is not None
    assert "is no model: write a name or a glob, such as gpt-*" in fault
    assert fault.isascii()
    assert fault.isprintable()
    assert fault_of_models(["gpt-*", "*", "?", "модель", "x" * 200]) is None


@pytest.mark.parametrize("name", ["", "chatt", "Chat", "chat "])
def test_a_name_that_is_no_operation_has_a_fault_with_the_operations(name: str) -> None:
    fault = fault_of_operations(["chat", name])

    assert fault is not None
    assert fault.startswith(f"there is no operation {name!r}; there are chat, count_tokens, ")
    assert fault_of_operations(["embeddings", "chat"]) is None


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


@pytest.mark.parametrize(
    ("address", "is_private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("100.64.0.1", True),
        ("[fd00::1]", True),
        ("::ffff:192.168.0.1", True),
        ("64:ff9b::a00:1", True),
        ("2002:7f00:1::", True),
        ("93.184.216.34", False),
        ("2606:2800:220:1::1", False),
        ("::ffff:93.184.216.34", False),
        ("alerts.example", False),
    ],
)
def test_an_address_that_is_not_public_is_private_in_every_spelling(
    address: str, *, is_private: bool
) -> None:
    assert is_private_address(address) is is_private


def test_a_private_network_that_is_allowed_is_allowed_alone() -> None:
    allowed = (ipaddress.ip_network("10.0.0.0/8"),)

    assert not is_private_address("10.1.2.3", allowed=allowed)
    assert not is_private_address("::ffff:10.1.2.3", allowed=allowed)
    assert is_private_address("192.168.0.1", allowed=allowed)


@pytest.mark.parametrize("host", ["2852039166", "0251.0376.0251.0376", "127.1"])
def test_a_number_that_a_resolver_takes_for_an_address_is_refused(host: str) -> None:
    """Of 169.254.169.254, for example."""
    assert is_refused_address(host)


def test_a_time_zone_is_the_same_on_every_machine() -> None:
    """Not the machine's own, which former versions stored."""
    zones = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Etc/GMT+5")
    others = ("Mars/Olympus", "Europe", "x" * 300, "../UTC", "nul\0")

    assert all(map(is_time_zone, zones))
    assert not any(map(is_time_zone, (*others, "localtime", "Factory")))
    assert not any(is_time_zone(name, was_stored=True) for name in others)
    assert is_time_zone("Factory", was_stored=True)


def test_a_time_without_a_zone_is_accepted_as_one_in_utc() -> None:
    elsewhere = datetime(2026, 11, 30, tzinfo=timezone(timedelta(hours=5)))

    assert accepted(datetime(2026, 11, 30)) == datetime(2026, 11, 30, tzinfo=UTC)  # noqa: DTZ001
    assert accepted(elsewhere) is elsewhere


@pytest.mark.parametrize("year", [1969, 9999])
def test_a_time_that_no_part_of_egret_can_hold_is_refused(year: int) -> None:
    with pytest.raises(ValueError, match=r"\Anot "):
        accepted(datetime(year, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("glob", "globs", "is_within"),
    [
        ("gpt-5", ["o3", "gpt-*"], True),
        ("gpt-*", ["gpt-*"], True),
        ("gpt-5*", ["gpt-*"], True),
        ("gpt-?", ["gpt-*"], True),
        ("GPT-5", ["gpt-*"], True),
        ("gpt-*", ["gpt-?"], False),
        ("gpt-*", ["gpt-?*"], False),
        ("gpt-*", ["gpt-??????????"], False),
        ("gpt-*", ["gpt-5*"], False),
        ("*", ["gpt-*"], False),
        ("*-mini", ["gpt-*"], False),
        ("gpt-5", [], False),
        ("a*b*c", ["a*c"], True),
        ("*a*b*", ["*ab*"], False),
    ],
)
def test_a_glob_is_within_others_if_one_of_them_matches_all_that_it_does(
    glob: str, globs: list[str], *, is_within: bool
) -> None:
    assert is_glob_within(glob, globs) is is_within


@pytest.mark.parametrize(
    ("text", "can_be_held"), [("Zürich", True), ("a\0b", False), ("a\udcffb", False)]
)
def test_a_text_with_nul_or_a_lone_surrogate_is_none_that_a_database_holds(
    text: str, *, can_be_held: bool
) -> None:
    assert is_text(text) is can_be_held
