"""Bars and words of limits, as a terminal shows them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from sidecar.cli.terminal import WIDTH, bar, percent
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.limit_syntax import shown, shown_amount, shown_for, shown_span


def drawn(used: int | None, room: int, *, colours: bool = False) -> str:
    """Return what a console shows of a bar."""
    written = io.StringIO()
    console = Console(
        file=written,
        width=60,
        force_terminal=colours,
        color_system="standard" if colours else None,
    )
    console.print(bar(used, room))
    return written.getvalue().rstrip()


@pytest.mark.parametrize(
    ("used", "room", "full", "said"),
    [
        (0, 4, 0, "0 %"), (1, 4, 5, "25 %"), (4, 4, WIDTH, "100 %"), (9, 4, WIDTH, "225 %"),
        (0, 0, WIDTH, "100 %"),
    ],
    ids=["none", "a quarter", "all", "more", "of nothing"],
)  # fmt: skip
def test_a_bar_is_as_long_as_its_share(used: int, room: int, full: int, said: str) -> None:
    """Never longer than itself; without colours the rest of it stays empty."""
    line = drawn(used, room)
    assert line.count("━") == full
    assert line.endswith(said)


def test_a_bar_changes_its_colour_before_the_end() -> None:
    """Green, yellow from 80 %, red from 95 %."""
    codes = [drawn(used, 100, colours=True)[:5] for used in (79, 80, 94, 95, 100)]
    assert codes == ["\x1b[32m", "\x1b[33m", "\x1b[33m", "\x1b[31m", "\x1b[31m"]


def test_what_nobody_knows_is_no_empty_bar() -> None:
    """Zero would be a claim."""
    assert drawn(None, 4) == "-"


@pytest.mark.parametrize(
    ("micros", "limit", "spent"),
    [
        (1_000, "cost/day=0.001", "0.001"), (1_005_000, "cost/day=1.005", "1.00"),
        (250_000_000, "cost/day=250.00", "250.00"), (0, "cost/day=0.00", "0.00"),
    ],
)  # fmt: skip
def test_a_small_budget_is_not_shown_as_none(micros: int, limit: str, spent: str) -> None:
    """A limit is shown in full, an amount spent in full below one dollar."""
    one = Limit(id="l", level=Level.KEY, measure=Measure.COST, window=Window.DAY, amount=micros)
    assert shown(one) == limit
    assert shown_amount(Measure.COST, micros) == spent


def test_a_share_is_rounded_down() -> None:
    """100 % is all of it."""
    assert percent(999, 1_000) == 99


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"), (0.2, "1 s"), (59.0, "59 s"), (60.0, "1 min"), (3_599.0, "59 min"),
        (3_600.0, "1 h 0 min"), (90_000.0, "1 d 1 h"),
    ],
)  # fmt: skip
def test_a_time_from_now_is_told_in_its_largest_units(seconds: float, words: str) -> None:
    """A month in seconds tells nobody anything."""
    assert shown_span(seconds) == words


def test_what_a_limit_holds_for_is_told_in_one_line() -> None:
    """Models, then operations, and a time zone that is not UTC: two limits may differ in it."""
    limit = Limit(
        id="1", level=Level.KEY, measure=Measure.REQUESTS, window=Window.DAY, amount=1,
        models=("gpt-*", "o3"), operations=("chat",),
    )  # fmt: skip
    assert shown_for(limit) == "gpt-*, o3, chat"
    assert shown_for(replace(limit, time_zone="Europe/Berlin")) == "gpt-*, o3, chat, Europe/Berlin"
