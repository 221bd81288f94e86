from __future__ import annotations

import pytest

from sidecar.mutations.answer_edits import TokenEdit, edited

PAYLOAD = b'{"a": "x bob\\u0040example.com \\"y\\"", "n": 4111111111111111, "s": "to eve"}'


@pytest.mark.parametrize(
    ("edits", "wanted"),
    [
        ([], PAYLOAD),
        (
            [TokenEdit(1, 2, 17, b"[EMAIL_1]")],
            PAYLOAD.replace(b"bob\\u0040example.com", b"[EMAIL_1]"),
        ),
        ([TokenEdit(-1, 0, 16, b"[CARD_1]")], PAYLOAD.replace(b"4" + b"1" * 15, b'"[CARD_1]"')),
        (
            [TokenEdit(4, 3, 6, b'"\xc3\xa9"'), TokenEdit(1, 0, 1, b"z")],
            PAYLOAD.replace(b"eve", b'\\"\xc3\xa9\\"').replace(b'"x ', b'"z '),
        ),
        (
            [TokenEdit(4, 3, 6, b'"', is_json=True)],
            PAYLOAD.replace(b"eve", b'\\\\\\"'),
        ),
    ],
    ids=["none", "escape", "number", "several", "json"],
)
def test_only_the_bytes_of_the_spans_change(edits: list[TokenEdit], wanted: bytes) -> None:
    """Escapes are taken out whole; what is put in is escaped as deep as it stands."""
    assert edited(PAYLOAD, edits, has_logprobs=False) == wanted


def test_spans_that_were_widened_over_each_other_leave_nothing_between() -> None:
    """Two that begin within one escape: the first stands for both."""
    edits = [TokenEdit(1, 2, 6, b"[A_1]"), TokenEdit(1, 5, 17, b"[B_1]")]
    assert edited(PAYLOAD, edits, has_logprobs=False) == PAYLOAD.replace(
        b"bob\\u0040example.com", b"[A_1]"
    )
