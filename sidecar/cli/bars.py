"""Bars in a table: how much of something is used."""

from __future__ import annotations

from typing import Final

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

WIDTH: Final = 20
_WARNED: Final = 80
_ALARMED: Final = 95


def percent(used: int, room: int) -> int:
    """Return how much of *room* is used, rounded down; of no room, all of it."""
    return used * 100 // room if room else 100


def bar(used: int | None, room: int) -> Table | Text:
    """Return a bar with its percentage, in colours where there are any; nothing is `-`."""
    if used is None:
        return Text("-")
    share = percent(used, room)
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(
            total=100,
            completed=min(share, 100),
            width=WIDTH,
            complete_style=_style(share),
            finished_style="red",
        ),
        Text(f"{share} %"),
    )
    return line


def _style(share: int) -> str:
    if share >= _ALARMED:
        return "red"
    return "yellow" if share >= _WARNED else "green"
