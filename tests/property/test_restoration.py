from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.domain.finding import Restoration, unfinished_from
from tests.support.answers import APIS, effective, judgement, streamed
from tests.support.answers import cut as cut_at

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


POLICY = effective(
    "[{name: own, type: denied_patterns, stage: output, action: redact, "
    "patterns: [{name: P, regex: zq}]}]"
)
VALUES = st.text(
    st.sampled_from('a"\\\n\r\x00\x1fé😀\u2028{}[],: \u200bEMAIL_1'), min_size=1, max_size=12
)
WRITTEN = st.one_of(
    PLACEHOLDERS.map(bytes.decode),
    st.sampled_from(["[", "]", " ", "é", "😀", '"', "\\", "\n", "0", "1", "[EMAIL_", "x", "{"]),
)
VALUE_MAPS = st.dictionaries(PLACEHOLDERS, VALUES.map(str.encode), max_size=4).map(Restoration)
CUTS = st.lists(st.integers(0, 9_999), max_size=8)


@pytest.mark.parametrize("api", APIS)
@settings(max_examples=40, deadline=None)
@given(made=VALUE_MAPS, pieces=st.lists(WRITTEN, max_size=10), text_cuts=CUTS, cuts=CUTS)
@example(  # within a run of backslashes, of which each token has an odd number
    made=Restoration({b"[A_1]": b"a"}), pieces=["\\", "\\", "[A_1]"], text_cuts=[10], cuts=[]
)
@example(  # behind an escape that ends with a digit
    made=Restoration({b"0000 0000 0000 0013": b"a"}),
    pieces=["é", "0000 0000 0000 0013"],
    text_cuts=[],
    cuts=[],
)
def test_a_client_reads_its_values_however_the_answer_is_cut(
    api: str, *, made: Restoration, pieces: list[str], text_cuts: list[int], cuts: list[int]
) -> None:
    """Over events and chunks of every API, in prose as in the keys and values of arguments."""
    is_json = api in {"tool call", "tool use"}
    text = "x " + "".join(pieces) + " y"
    wanted = made.restore(text.encode()).decode()
    said = json.dumps({"a": text, text: [text, 1]}) if is_json else text
    borders = sorted({0, len(said), *(place % len(said) for place in text_cuts)})
    tokens = [said[a:b] for a, b in pairwise(borders)]
    chunks = cut_at(APIS[api].stream(tokens), cuts)
    result = streamed(judgement(POLICY, APIS[api].form, restoration=made), chunks)
    assert result.error is None
    read = APIS[api].said(result.body)
    if is_json:
        assert json.loads(read) == {"a": wanted, wanted: [wanted, 1]}
    else:
        assert read == wanted
