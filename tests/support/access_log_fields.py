"""The fields of Envoy's access log as docs/envoy.md explains them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "envoy.md"
_SECTION: Final = re.compile(r"^## Access log$(.*?)^## ", re.MULTILINE | re.DOTALL)


def explained() -> dict[str, set[str]]:
    """Return the names of each table by the head of its first column."""
    section = _SECTION.search(DOCUMENT.read_text(encoding="utf-8"))
    assert section is not None
    tables: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in section[1].splitlines():
        first, _, second = line.removeprefix("| ").partition(" | ")
        if second.startswith("meaning"):
            names = tables.setdefault(first.strip("`").removeprefix("in `"), set())
        elif line.startswith("| `"):
            names.update(re.findall(r"`(\w+)`", first))
    return tables
