"""Chunks of real code and configuration: files of installed packages and of the corpora."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from training.packages import UNPACKED

SUFFIXES: Final = frozenset(
    {".py", ".pyi", ".js", ".ts", ".json", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".conf",
     ".sh", ".md", ".rst", ".html", ".css", ".c", ".h", ".go", ".rs", ".java", ".sql", ".xml",
     ".env", ".j2", ".proto", ".pem", ".txt"}
)  # fmt: skip
CHUNK_CHARACTERS: Final = 3_000
A_FILE: Final = 2
"""Chunks of one file: many files say more than many chunks of a generated one."""
A_FOLDER: Final = 150
"""Chunks of one package."""
_DIGEST: Final = hashlib.sha256


def folders() -> list[Path]:
    """Return where there is code: the standard library, installed packages, the corpora."""
    known = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    return [*known, UNPACKED]


def code_chunks(roots: Iterable[Path], most: int) -> Iterator[str]:
    """Yield up to *most* chunks, from files in an order that depends on their paths alone."""
    taken: dict[str, int] = {}
    count = 0
    for path, name in sorted(_files(roots), key=lambda one: _DIGEST(one[1].encode()).digest()):
        folder = name.split("/", 1)[0]
        if taken.get(folder, 0) >= A_FOLDER:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        every = [text[at : at + CHUNK_CHARACTERS] for at in range(0, len(text), CHUNK_CHARACTERS)]
        for chunk in sorted(every, key=lambda one: _DIGEST(one.encode()).digest())[:A_FILE]:
            if len(chunk.strip()) < CHUNK_CHARACTERS // 6:
                continue
            yield chunk
            taken[folder] = taken.get(folder, 0) + 1
            count += 1
            if count >= most:
                return


def _files(roots: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for root in roots:
        for path in root.rglob("*"):
            name = path.relative_to(root).as_posix()
            is_nested = "site-packages/" in name or "/." in name
            if path.suffix in SUFFIXES and not is_nested and path.is_file():
                yield path, name
