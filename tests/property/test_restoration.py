from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.finding import Restoration, unfinished_from

PLACEHOLDERS = st.sampled_from(
    [b"[EMAIL_1]", b"[EMAIL_12]", b"[A_1]", b"[EMAIL_h_0123456789abcdef]", b"0000 0000 0000 0013"]
)
PIECES = st.one_of(
    PLACEHOLDERS, st.sampled_from([b"[", b"]", b"EMAIL_", b"1", b"0 ", b"-", b" ", b"x"])
)
MAPS = st.builds(Restoration, st.dictionaries(PLACEHOLDERS, PIECES))


@given(made=MAPS, pieces=st.lists(PIECES, max_size=12), cuts=st.lists(st.integers(0, 40)))
def test_an_answer_in_pieces_is_restored_as_the_whole(
    made: Restoration, pieces: list[bytes], cuts: list[int]
) -> None:
    """However the text is cut, holding back its unfinished end loses and changes nothing."""
    text = b"".join(pieces)
    said, held, at = b"", b"", 0
    for cut in (*cuts, len(text)):
        held += text[at : at + cut]
        at += cut
        ready = unfinished_from(held)
        said += made.restore(held[:ready])
        held = held[ready:]
    assert said + made.restore(held) == made.restore(text)
