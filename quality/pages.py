"""Builds the pages into a site with search: `make docs`.

    python -m quality.pages GENERATOR

Copies `docs` and the pages of the checkout's root to `build/pages`, as the generator needs them:
anchors are written out, so that they are those of GitHub, and links to files that are no pages
become plain text. GENERATOR is the program, `zensical`. Then every link and anchor of the HTML is
checked. Exits 1 if one is dead.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from os.path import relpath
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from typing_extensions import override

from quality.links import DOCS, FENCE, ROOT, anchor_of

SOURCE: Final = ROOT / "build" / "pages"
SITE: Final = ROOT / "build" / "site"
PROJECT_PAGES: Final = {
    ROOT / name: SOURCE / "project" / name.lower()
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "CHANGELOG.md",
    )
}
_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^(#+) +(.+?) *$", re.MULTILINE)


def staged() -> dict[Path, Path]:
    """Return where each page and picture goes, by its file in the checkout."""
    inner = {
        file: SOURCE
        / file.relative_to(DOCS).with_name("index.md" if file == DOCS / "README.md" else file.name)
        for file in DOCS.rglob("*")
        if file.is_file()
    }
    return {**inner, **PROJECT_PAGES}


def stage() -> None:
    """Copy all pages and pictures to `build/pages`."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    places = staged()
    for file, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            place.write_text(page_text(file, places), encoding="utf-8")
        else:
            shutil.copyfile(file, place)


def page_text(page: Path, places: dict[Path, Path]) -> str:
    """Return a page with its anchors written out and its links as they are in the site."""
    seen: Counter[str] = Counter()

    def heading(match: re.Match[str]) -> str:
        anchor = anchor_of(match[2])
        seen[anchor] += 1
        number = f"-{seen[anchor] - 1}" if seen[anchor] > 1 else ""
        return f"{match[1]} {match[2]} {{#{anchor}{number}}}"

    def link(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        place = places.get((page.parent / path).resolve())
        if place is None:
            return label
        return f"{mark}[{label}]({relpath(place, places[page].parent)}{hash_}{anchor})"

    parts = []
    text, end = page.read_text(encoding="utf-8"), 0
    for fence in [*FENCE.finditer(text), None]:
        prose = text[end : fence.start() if fence else len(text)]
        parts.append(_LINK.sub(link, _HEADING.sub(heading, prose)))
        if fence:
            parts.append(fence[0])
            end = fence.end()
    return "".join(parts)


class _Html(HTMLParser):
    """Collects ids and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(str(values["id"]))
        for name in ("href", "src"):
            if values.get(name) and tag in {"a", "img"}:
                self.targets.append(str(values[name]))


def dead_targets(site: Path) -> Iterator[str]:
    """Yield links of the built site that lead nowhere."""
    read: dict[Path, _Html] = {}
    for file in site.rglob("*.html"):
        read[file] = _Html()
        read[file].feed(file.read_text(encoding="utf-8"))
    for file, html in read.items():
        if file.name == "404.html":  # served for every path: its links are absolute
            continue
        for target in html.targets:
            if re.match(r"\w+:|//", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            there = (file.parent / path).resolve() if path else file
            there = there / "index.html" if there.is_dir() else there
            is_dead = not there.exists() or (
                anchor and there in read and anchor not in read[there].ids
            )
            if is_dead:
                yield f"{file.relative_to(site)}: {target}"


def main(generator: str) -> int:
    """Build and check; return the exit code."""
    stage()
    subprocess.run([generator, "build", "--clean"], cwd=ROOT, check=True)  # noqa: S603 - pinned
    dead = sorted(set(dead_targets(SITE)))
    for line in dead:
        print(f"dead link: {line}")
    if not dead:
        print(f"{SITE.relative_to(ROOT)}/index.html")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
