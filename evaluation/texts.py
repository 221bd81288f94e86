"""Texts of the generators, in files beside them: by heading, one text a line."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent


@functools.cache
def texts_by_heading(name: str) -> dict[str, Sequence[str]]:
    """Return the lines below each `== heading` of a file; a comment may stand before the first."""
    found: dict[str, list[str]] = {}
    heading: list[str] = []
    for line in (_FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            heading = found.setdefault(line[3:], [])
        elif line and found:
            heading.append(line.replace("\\n", "\n").replace("\\t", "\t"))
    return {heading: tuple(lines) for heading, lines in found.items()}
