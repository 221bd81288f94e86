"""Whoever begins at docs/README.md finds every page, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dashboards.boards import BOARDS
from quality.links import DOCS, ROOT, dead_links, links, pages
from sidecar import __version__

INDEX = DOCS / "README.md"
PAGES = pages()

_BY_NAME = re.compile(r"pip install[^\n`]*[ '\"=]egret(\[|[ '\"`]|$)", re.MULTILINE)


def _reached(start: Path) -> set[Path]:
    """Return all files to which links lead; a link to a folder leads to what is in it."""
    reached: set[Path] = set()
    waiting = [start]
    while waiting:
        here = waiting.pop()
        if here in reached:
            continue
        reached.add(here)
        if here.is_dir():
            waiting += here.iterdir()
        elif here.suffix == ".md":
            waiting += [path for path, _ in links(here) if path.is_relative_to(DOCS)]
    return {path for path in reached if path.is_file()}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_no_link_is_dead(page: Path) -> None:
    """Neither its file nor its place in it is missing."""
    assert dead_links(page) == []


def test_the_readme_leads_to_the_index() -> None:
    """It is the one page that everybody opens."""
    assert INDEX in {path for path, _ in links(ROOT / "README.md")}


def test_every_page_and_picture_is_reached_from_the_index() -> None:
    """What nobody links to nobody reads."""
    there = {path for path in DOCS.rglob("*") if path.is_file()}

    assert there - _reached(INDEX) == set()


def test_a_reader_who_is_woken_up_needs_two_clicks_at_most() -> None:
    """To each dashboard's picture, to each runbook, to each metric."""
    first = {path for path, _ in links(INDEX)}
    second = {path for page in first if page.suffix == ".md" for path, _ in links(page)}

    assert DOCS / "metrics.md" in first
    assert {DOCS / "images" / f"dashboard-{board.name}.png" for board in BOARDS} <= second
    assert set((DOCS / "runbooks").iterdir()) <= second


def test_nobody_is_told_to_install_egret_by_its_name() -> None:
    """On the public index the name is somebody else's."""
    written = [*PAGES, *(ROOT / "sidecar").rglob("*.py")]

    assert [page for page in written if _BY_NAME.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "line", ["pip install 'egret[x]'", "pip install -q egret", "pip install egret[x]"]
)
def test_an_installation_by_name_would_be_found(line: str) -> None:
    """However it is quoted."""
    assert _BY_NAME.search(line)


def test_every_wheel_that_a_page_installs_is_of_this_version() -> None:
    """`make dist` builds no file of another version's name, and pip would not find it."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    named = {
        name for text in texts for name in re.findall(r"(egret(?:_tools)?-\d[^-`' ]*)-py3", text)
    }

    assert named == {f"egret-{__version__}", f"egret_tools-{__version__}"}
