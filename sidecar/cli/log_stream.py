"""Lines of a stream that may never end, whatever is in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

MAX_LINE_BYTES: Final = 1024**2
"""No line of Egret's comes near it; what is longer is counted and not kept."""
CHUNK_BYTES: Final = 64 * 1024
POLL_SECONDS: Final = 0.2
"""How soon a line that was added to a followed file is seen."""


class Readable(Protocol):
    """Gives what there is, waits where there is nothing, and returns nothing at the end."""

    def read1(self, size: int, /) -> bytes:
        """Return up to *size* bytes."""
        ...


class Lines:
    """Puts chunks together to lines; holds at most one line of the largest size."""

    def __init__(self) -> None:
        self.too_long = 0
        self._begun = bytearray()
        self._is_skipping = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Return the lines that *chunk* ends, without their line feed."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._keep(piece)
            line = self._take()
            if line is not None:
                yield line
        self._keep(rest)

    def close(self) -> Iterator[bytes]:
        """Return the last line where it does not end in a line feed."""
        line = self._take()
        if line:
            yield line

    def _keep(self, piece: bytes) -> None:
        if self._is_skipping:
            return
        self._begun += piece
        if len(self._begun) > MAX_LINE_BYTES:
            self.too_long += 1
            self._is_skipping = True
            self._begun.clear()

    def _take(self) -> bytes | None:
        line = None if self._is_skipping else bytes(self._begun)
        self._begun.clear()
        self._is_skipping = False
        return line


def chunks_of(stream: Readable) -> Iterable[bytes]:
    """Return what comes, as it comes, to the end."""
    return iter(lambda: stream.read1(CHUNK_BYTES), b"")


def followed(path: Path) -> Iterator[bytes]:
    """Return what is in a file and what is added to it, for ever.

    A file that is replaced (rotated) is read to its end and the new one from its beginning; one
    that is cut is read anew. While there is none of that name, one is waited for.
    """
    file = FileIO(path)
    try:
        while True:
            chunk = file.read(CHUNK_BYTES)
            if chunk:
                yield chunk
                continue
            newer = _newer(path, file)
            if newer is None:
                time.sleep(POLL_SECONDS)
                continue
            yield b"\n"  # half a line of the old one is no beginning of the new one's
            if newer is not file:
                file.close()
                file = newer
    finally:
        file.close()


def _newer(path: Path, file: FileIO) -> FileIO | None:
    ours = os.fstat(file.fileno())
    try:
        named = path.stat()
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            return FileIO(path)
    except FileNotFoundError:
        return None
    if ours.st_size < file.tell():
        file.seek(0)
        return file
    return None
