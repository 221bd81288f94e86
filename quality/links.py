"""Links between pages: each must lead to a file, and to a heading of it.

    python -m quality.links

Part of `make check`; exits 1 and lists the dead ones.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"

FENCE: Final = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"`[^`\n]*`")
_HEADING: Final = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_LINKED: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def pages(root: Path = ROOT) -> list[Path]:
    """Return the pages that people read: of the checkout's root, of docs, examples and deploy."""
    folders = (root / name for name in ("docs", "examples", "deploy"))
    return sorted([*root.glob("*.md"), *(page for one in folders for page in one.rglob("*.md"))])


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the targets of *page* in this repository: a file or a folder, and an anchor or ``."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(_CODE.sub("code", text)):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading, as GitHub names it."""
    text = _LINKED.sub(r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page; the second heading of the same words ends in `-1`."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        anchor = anchor_of(heading)
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def dead_links(page: Path) -> list[str]:
    """Return the targets of *page* that do not exist."""
    return [
        f"{path}#{anchor}" if anchor else str(path)
        for path, anchor in links(page)
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path))
    ]


def main() -> int:
    """Print the dead links; return 1 if there are any."""
    dead = [(page, target) for page in pages() for target in dead_links(page)]
    for page, target in dead:
        print(f"{page.relative_to(ROOT)}: no such place: {target}")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
