from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from typing_extensions import override

from sidecar.domain.cooperative import run_sync
from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart
from sidecar.guardrails.matching import boundaries
from sidecar.guardrails.matching.boundaries import (
    EDGE_BYTES,
    MAX_REACH_BYTES,
    REACH_BYTES,
    BoundaryWindow,
    PartSlice,
)
from tests.support.guardrails import parts_of


def boundary_windows(
    parts: Sequence[TextPart], runs: Sequence[Sequence[int]]
) -> tuple[BoundaryWindow, ...]:
    """Return the windows, made in one go."""
    return run_sync(boundaries.boundary_windows(parts, runs))


def _contents(*texts: str) -> list[str]:
    parts = parts_of(texts)
    return [
        window.content.decode() for window in boundary_windows(parts, [tuple(range(len(texts)))])
    ]


def test_short_texts_are_seen_as_one() -> None:
    """Every border of a run is within reach of the next."""
    assert boundary_windows(parts_of(["ab", "x", "cd"]), [(0, 2)]) == (
        BoundaryWindow(
            b"abcd",
            (PartSlice(0, 0, 0, 2), PartSlice(2, 2, 0, 2)),
            is_cut_before=False,
            is_cut_after=False,
        ),
    )


def test_of_long_texts_only_what_is_near_a_border_is_seen() -> None:
    """The pass over whole texts is not made twice."""
    long = "a b " * 2_500
    first, second = _contents(long, "b", long, long)
    assert first == long[-REACH_BYTES:] + "b" + long[:REACH_BYTES]
    assert second == long[-REACH_BYTES:] + long[:REACH_BYTES]


def test_a_long_word_at_a_border_is_seen_whole() -> None:
    """A token that carries claims is longer than what is seen of prose, but not endless."""
    word = "x" * 2_000
    assert _contents(f"the token {word}", f"{word} of a friend" + " and so on" * 99) == [
        word + word
    ]
    assert len(_contents("x" * 10_000, "y" * 10_000)[0]) == 2 * MAX_REACH_BYTES


def test_no_character_is_cut_in_two() -> None:
    """The engines want UTF-8."""
    (seen,) = _contents("a" + "é " * 5_000, " é" * 5_000 + "a")
    assert len(seen.encode()) in range(2 * REACH_BYTES - 2, 2 * REACH_BYTES + 1)


def test_several_runs_are_seen_apart() -> None:
    """What two roles say is never joined."""
    parts = parts_of(["a", "b", "c", "d"])
    assert [window.content for window in boundary_windows(parts, [(0, 1), (2, 3)])] == [
        b"ab",
        b"cd",
    ]


def _found(start: int, end: int) -> Finding:
    return Finding("g", "T", 0, start, end)


class _CountedSlices(tuple[PartSlice, ...]):
    """Counts the slices that are looked at."""

    __slots__ = ()
    looked_at: ClassVar[list[int]] = []

    @override
    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.looked_at.append(len(found) if isinstance(at, slice) else 1)
        return found

    @override
    def __iter__(self) -> Iterator[PartSlice]:
        self.looked_at.append(len(self))
        return super().__iter__()


def test_a_finding_among_many_parts_is_located_by_few_of_them() -> None:
    """Two thousand findings in a window of fifty thousand parts held a worker for 8 s."""
    (window,) = boundary_windows(parts_of(["a"] * 50_000), [range(50_000)])
    window = replace(window, slices=_CountedSlices(window.slices))
    _CountedSlices.looked_at.clear()
    assert window.located(_found(40_000, 40_002)) == [
        Finding("g", "T", 40_000, 0, 1),
        Finding("g", "T", 40_001, 0, 1),
    ]
    assert 0 < sum(_CountedSlices.looked_at) < 50


def test_a_finding_is_told_by_its_pieces() -> None:
    """One a part that it touches, in the bytes of the part."""
    (window,) = boundary_windows(parts_of(["a " * 300, "bb", " c" * 300]), [(0, 1, 2)])
    assert list(window.located(_found(500, 520))) == [
        Finding("g", "T", 0, 588, 600),
        Finding("g", "T", 1, 0, 2),
        Finding("g", "T", 2, 0, 6),
    ]


@pytest.mark.parametrize(
    ("start", "end", "pieces"),
    [
        (0, EDGE_BYTES - 1, 0),
        (EDGE_BYTES, EDGE_BYTES + 5, 1),
        (2 * REACH_BYTES - 5, 2 * REACH_BYTES, 0),
        (0, REACH_BYTES + 1, 2),
    ],
)
def test_what_may_be_half_of_a_word_is_not_found(start: int, end: int, pieces: int) -> None:
    """Where a view was cut, a run of digits could look like a card; across a border it counts."""
    (window,) = boundary_windows(parts_of(["a " * 5_000, " b" * 5_000]), [(0, 1)])
    assert len(list(window.located(_found(start, end)))) == pieces


def test_at_the_true_ends_of_a_text_nothing_is_dropped() -> None:
    """There is no cut there."""
    (window,) = boundary_windows(parts_of(["a" * 100, "b" * 100]), [(0, 1)])
    assert len(list(window.located(_found(0, 5)))) == 1
    assert len(list(window.located(_found(195, 200)))) == 1
