"""Files that commands read; `-` is standard input. One that cannot be read ends the command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from sidecar.cli.output import FAILED, WRONG_USAGE, fail

STANDARD_STREAM: Final = Path("-")


def read_file(file: Path) -> bytes:
    """Return all of *file*."""
    with open_file(file) as stream:
        return stream.read()


def read_text(file: Path, *, code: int = FAILED) -> str:
    """Return all of *file*, which is UTF-8; one that is not exits with *code*."""
    content = read_file(file)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"{file}: byte {error.start} is not UTF-8"
        fail(reason, mend="save it as UTF-8", code=code)


@contextmanager
def open_file(file: Path) -> Iterator[BinaryIO]:
    """Give the stream of *file*; standard input stays open."""
    if file == STANDARD_STREAM:
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        fail(f"{file}: {error.strerror}", mend="name a file that can be read", code=WRONG_USAGE)
    with stream:
        yield stream


def size_of(file: Path) -> int:
    """Return the bytes of *file*, 0 where nobody can tell."""
    return 0 if file == STANDARD_STREAM or not file.exists() else file.stat().st_size
