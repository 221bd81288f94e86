"""A bar for work that takes long, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sidecar.cli.output import console

Advance = Callable[[int], None]
"""Takes how much is done in all."""


@contextmanager
def progress(what: str, *, total: int) -> Iterator[Advance]:
    """Show a bar on standard error as long as the block lasts."""
    screen = console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bars:
        bar = bars.add_task(what, total=total)

        def advance(done: int) -> None:
            bars.update(bar, completed=done)

        yield advance
