from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest
import typer
from rich.text import Text
from typing_extensions import override

from sidecar.cli.terminal import (
    Cell,
    Output,
    bar,
    fail,
    harmless,
    note,
    print_record,
    print_rows,
    print_table,
    shown,
)

ATTACK = "no\x1b[31m\x9b2J\u202efile\u2066\r"
SHOWN = r"no\u001b[31m\u009b2J\u202efile\u2066\u000d"


def test_an_error_shows_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    """The name of a file may hold escape sequences, and marks that turn a line around."""
    with pytest.raises(typer.Exit):
        fail(f"{ATTACK}: No such file", hint="name a file that can be read")
    note(ATTACK)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"error: {SHOWN}: No such file; name a file that can be read", SHOWN]


def test_a_cell_of_a_table_shows_it_too() -> None:
    """A text and a list of texts."""
    assert [shown(ATTACK), shown([ATTACK, "b"])] == [SHOWN, f"{SHOWN}, b"]


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "größer \u2013 例え", "🙂"])
def test_other_text_stays_as_it_is(text: str) -> None:
    """Letters of every script, line ends and tabs."""
    assert harmless(text) == text


class Terminal(io.StringIO):
    """Standard output of some columns, which keeps the text."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    @override
    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        """Return the text without its colours."""
        return Text.from_ansi(self.getvalue()).plain


@pytest.fixture(params=[60, 80, 200])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal too narrow for most tables, a common one, and a wide one."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "xterm")
    return Terminal(request.param)


KEY: dict[str, Cell] = {
    "key_id": "MQO2VRabcd12",
    "name": "laptop of the second floor",
    "team": "acme/search",
    "state": "active",
    "expires_at": None,
    "policy": "strict",
    "allowed_models": ["gpt-4o-mini", "claude-sonnet-4-5"],
    "created_at": "2026-11-30 10:00:00Z",
}
USAGE: dict[str, Cell] = {
    "team": "acme/search",
    "requests": "12,345,678",
    "refused": "1,234,567",
    "failed": "123,456",
    "input_tokens": "986,543,210,987",
    "cached_input": "986,543,210",
    "output_tokens": "86,543,210",
    "reasoning": "6,543,210",
    "cost_usd": "12,345.6789",
    "estimated": "345,678",
    "unpriced": "45,678",
}


@pytest.mark.parametrize("row", [KEY, USAGE], ids=["a key", "usage"])
def test_a_table_has_every_identifier_and_number_whole(
    row: dict[str, Cell], terminal: Terminal
) -> None:
    """Whatever the width of the terminal is: a number that is cut reads as a number."""
    with redirect_stdout(terminal):
        print_rows([row, row], columns=tuple(row), output=Output.TABLE)
    printed = terminal.shown()

    words = [word for value in row.values() for word in shown(value).split()]
    assert [word for word in words if printed.count(word) < 2] == []
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= terminal.columns


def test_a_table_with_bars_has_numbers_whole_too(terminal: Terminal) -> None:
    """As those of limits and of budgets."""
    cells = [Text("team acme/search"), Text("tokens/day 1,000,000"), bar(999_999, 1_000_000)]
    with redirect_stdout(terminal):
        print_table(
            [[*cells, Text("999,999,999,999")]], columns=("whose", "limit", "used", "left")
        )
    printed = terminal.shown()

    for word in ("acme/search", "tokens/day", "1,000,000", "99 %", "999,999,999,999"):
        assert word in printed
    assert "…" not in printed


def test_a_record_has_them_whole(terminal: Terminal) -> None:
    """Only a word wider than the terminal is folded, and nothing of it is lost."""
    with redirect_stdout(terminal):
        print_record(KEY | {"note": "#" * 150}, output=Output.TABLE)
    printed = terminal.shown()

    assert "MQO2VRabcd12" in printed
    assert printed.count("#") == 150
    assert "…" not in printed


def test_a_table_without_rows_says_so(terminal: Terminal) -> None:
    """By its columns alone, or in words if they do not fit."""
    with redirect_stdout(terminal):
        print_rows([], columns=tuple(USAGE), output=Output.TABLE)

    assert ("(0 rows)" in terminal.shown()) is (terminal.columns < 200)
    assert "…" not in terminal.shown()
