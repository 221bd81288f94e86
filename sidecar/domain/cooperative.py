"""Splits long work into slices, so that none holds the event loop for long."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

Cooperative = Generator[None, None, T]
"""Work that yields wherever it may be interrupted, and returns its result."""

SLICE_BYTES: Final = 32_768
"""Text handled between two interruptions: some 0.1 ms to filter, 1 ms to normalise at worst."""

SHORT_BYTES: Final = 8_192
"""Text of a request that is scanned in one go: some 20 µs to filter, 0.1 ms to score."""

SHORT_PARTS: Final = 32
"""Strings that such a text may consist of."""

SLICE_PARTS: Final = 32
"""Strings normalised between two interruptions: some 1 ms of short ones."""

SLICE_CANDIDATES: Final = 32
"""Candidates checked between two interruptions: some 1 ms of telephone numbers, the slowest."""

SLICE_FINDINGS: Final = 512
"""Findings made, or borders of strings gone through, between two interruptions: some 1 ms."""


def run_sync(steps: Cooperative[T]) -> T:
    """Do all of the work now."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def pieces_of(
    body: bytes, *, is_last: bool, size: int = SHORT_BYTES
) -> Iterator[tuple[bytes, bool]]:
    """Yield *body* in pieces of at most *size* bytes, each with whether it is the last of all."""
    for start in range(0, len(body) or 1, size):
        yield body[start : start + size], is_last and start + size >= len(body)
