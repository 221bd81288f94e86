from __future__ import annotations

import pytest

from sidecar.exchange.body import MAX_CHUNK_BYTES, BodyBuffer, cut


def test_pieces_are_joined_in_order_and_may_be_joined_again_after_more() -> None:
    """Joining does not end the buffer, and empty pieces are nothing."""
    buffer = BodyBuffer(limit_bytes=10)
    assert buffer.joined() == b""
    for piece in (b"ab", b"", b"c"):
        buffer.take(piece)
    assert buffer.joined() == b"abc"
    buffer.take(b"d")
    assert buffer.joined() == b"abcd"


def test_the_limit_counts_all_pieces_and_is_inclusive() -> None:
    """Exactly the limit fits, one byte more does not, and a dropped body counts no longer."""
    buffer = BodyBuffer(limit_bytes=3)
    buffer.take(b"ab")
    assert (buffer.may_take(b"c"), buffer.may_take(b"cd")) == (True, False)
    buffer.drop()
    assert (buffer.joined(), buffer.may_take(b"abc")) == (b"", True)


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, [(0, True)]),
        (1, [(1, True)]),
        (MAX_CHUNK_BYTES, [(MAX_CHUNK_BYTES, True)]),
        (MAX_CHUNK_BYTES + 1, [(MAX_CHUNK_BYTES, False), (1, True)]),
        (2 * MAX_CHUNK_BYTES, [(MAX_CHUNK_BYTES, False), (MAX_CHUNK_BYTES, True)]),
    ],
)
def test_a_body_is_cut_into_pieces_of_which_exactly_one_is_the_last(
    size: int, pieces: list[tuple[int, bool]]
) -> None:
    """An empty body is one empty last piece, because something must carry the end."""
    body = bytes(index % 251 for index in range(size))
    made = list(cut(body))
    assert [(len(piece), is_last) for piece, is_last in made] == pieces
    assert b"".join(piece for piece, _ in made) == body
