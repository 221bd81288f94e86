from __future__ import annotations

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.extproc.protocol import MAX_CHUNK_BYTES
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import Talk, body, cleared, headers, opened


def test_pieces_are_joined_in_order_and_may_be_joined_again_after_more() -> None:
    """Joining does not end the body, and empty pieces are nothing."""
    talk = Talk(opened(), headers(), on.BodyRequired())
    assert talk.protocol.body() == b""
    talk.tell(body(b"ab"), body(b""), body(b"c"))
    assert talk.protocol.body() == b"abc"
    talk.tell(body(b"d", ends=True))
    assert talk.protocol.body() == b"abcd"


def test_the_limit_counts_all_pieces_and_is_inclusive() -> None:
    """Exactly the limit fits, and one byte more does not."""
    talk = Talk(opened(), headers(), on.BodyRequired(), body(b"ab"), max_body_bytes=3)
    assert talk.tell(body(b"c")) == []
    assert talk.tell(body(b"d")) == [do.OweRefusal(ErrorKind.BODY_TOO_LARGE)]


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
    whole = bytes(index % 251 for index in range(size))
    talk = Talk(
        opened(), headers(), on.BodyRequired(), body(whole, ends=True), max_body_bytes=size
    )
    sent = [one for one in talk.tell(cleared()) if isinstance(one, do.StreamRequestBody)]
    assert [(len(piece.body), piece.end_of_stream) for piece in sent] == pieces
    assert b"".join(piece.body for piece in sent) == whole
