"""Where results go: a JSON file a target, and tables between markers of a Markdown page."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from egret_tools.devstack.processes import PartError
from rich.console import Console
from rich.table import Table

from loadtest.load import LoadError

ROOT: Final = Path(__file__).resolve().parents[1]
DIRECTORY: Final = ROOT / "build" / "bench"
PAGE: Final = ROOT / "docs" / "performance.md"
PUBLISHED: Final = ROOT / "docs" / "figures"
"""Results that the pages stand on, as files for those who reckon with them."""
PICTURES: Final = ROOT / "docs" / "images"


class MarkersMissingError(Exception):
    """The page has no place for this section."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Circumstances of a run, without which a figure has no meaning."""

    command: str
    commit: str
    machine: str
    started: str

    def as_json(self) -> dict[str, str]:
        """Return them as the result files carry them."""
        return {
            "command": self.command,
            "commit": self.commit,
            "machine": self.machine,
            "started": self.started,
        }

    def as_sentence(self) -> str:
        """Return them as the page carries them."""
        return f"`{self.command}` on {self.machine}, commit {self.commit}, started {self.started}."


@dataclass(frozen=True, slots=True)
class Grid:
    """A table for a terminal and for a page: *labels* columns of text, then figures."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def show(self, console: Console) -> None:
        """Print it."""
        table = Table(title=f"\n{self.title}", title_justify="left")
        for number, column in enumerate(self.columns):
            is_label = number < self.labels
            table.add_column(column, justify="left" if is_label else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def as_markdown(self) -> str:
        """Return it as a Markdown table."""
        rule = ["---" if number < self.labels else "---:" for number in range(len(self.columns))]
        lines = [self.columns, rule, *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def circumstances(command: str | None = None) -> Circumstances:
    """Return those of a run that begins now, by default of the module that Python runs."""
    main = sys.modules["__main__"].__spec__
    return Circumstances(
        command=command or " ".join(["python -m", main.name if main else "-", *sys.argv[1:]]),
        commit=_commit(),
        machine=_machine(),
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_json(target: str, figures: Mapping[str, float], run: Circumstances) -> Path:
    """Write the result file of *target*: flat keys, numbers, and the circumstances as text."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{target}.json"
    rounded = {key: round(value, 4) for key, value in figures.items()}
    text = json.dumps({**rounded, **run.as_json()}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def publish(target: str) -> Path:
    """Keep the result file of *target* beside the pages that were written from it."""
    PUBLISHED.mkdir(exist_ok=True)
    return Path(shutil.copy(DIRECTORY / f"{target}.json", PUBLISHED / f"{target}.json"))


def publish_picture(target: str) -> Path:
    """Keep the picture of *target* where the pages show it."""
    return Path(shutil.copy(DIRECTORY / f"{target}.png", PICTURES / f"{target}.png"))


def write_section(name: str, text: str, *, page: Path = PAGE) -> None:
    """Replace the text between the markers of *name*.

    Raises:
        MarkersMissingError: the page has none.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opened, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise MarkersMissingError(f"{page.name} has no {begin} … {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


class Report:
    """The output of a run: its tables, the result file of *target*, a section of the page."""

    def __init__(self, target: str, section: str = "", *, for_page: bool = False) -> None:
        self.console = new_console()
        self.run = circumstances()
        self._target = target
        self._section = section if for_page else ""

    def write(self, figures: Mapping[str, float], *grids: Grid, remark: str = "") -> None:
        """Print *grids*, write the result file and, if it is for the page, the section."""
        for grid in grids:
            grid.show(self.console)
        if remark:
            self.console.print(remark)
        self.console.print(f"\nWritten to {write_json(self._target, figures, self.run)}.")
        if self._section:
            parts = [self.run.as_sentence(), *(grid.as_markdown() for grid in grids), remark]
            write_section(self._section, "\n\n".join(filter(None, parts)), page=PAGE)

    def exit_code(self, failed: float, *, of: str = "requests") -> int:
        """Return 1 if requests, or others, have *failed*, and print how many."""
        if failed:
            self.console.print(f"✗ {failed:.0f} {of} failed.", style="red")
        return 1 if failed else 0


def prints_failure(main: Callable[[], int]) -> Callable[[], int]:
    """Return *main*, which prints the error of a part or a load that failed, and returns 1."""

    def run() -> int:
        try:
            return main()
        except (PartError, LoadError) as error:
            new_console().print(f"✗ {error}", markup=False, style="red")
            return 1

    return run


def new_console() -> Console:
    """Return a console; where there is no terminal, one wide enough for our tables."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    return console


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    # Pages are written by these very runs.
    paths = ["--", ".", ":!docs"]
    commands = (
        [git, "rev-parse", "--short", "HEAD"],
        [git, "status", "--porcelain", "--untracked-files=no", *paths],
    )
    commit, changes = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed words
        for command in commands
    )
    return (commit.strip() or "unknown") + (" with changes" if changes.strip() else "")


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} {'core' if cores == 1 else 'cores'} of {_processor()},"
        f" Linux {platform.release()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
