from __future__ import annotations

import pytest
import typer

from sidecar.cli.terminal import fail, harmless, note, shown

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
