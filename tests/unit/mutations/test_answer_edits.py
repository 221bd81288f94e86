from __future__ import annotations

import json

import pytest

from sidecar.dialects.json_text import OffsetMap
from sidecar.mutations import answer_edits
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
        (
            [TokenEdit(4, 3, 6, b"[X_1]", is_json=True, is_bare=True)],
            PAYLOAD.replace(b"eve", b'\\"[X_1]\\"'),
        ),
    ],
    ids=["none", "escape", "number", "several", "json", "bare number"],
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


def test_a_token_is_read_once_whatever_is_changed_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with thousands of values would be read thousands of times."""
    read: list[bytes] = []

    def counting(raw: bytes) -> OffsetMap:
        read.append(raw)
        return OffsetMap(raw)

    monkeypatch.setattr(answer_edits, "OffsetMap", counting)
    payload = json.dumps({"a": "x " * 100, "b": "y " * 100}).encode()
    edits = [
        TokenEdit(location, at, at + 1, b"z") for location in (1, 3) for at in range(0, 200, 2)
    ]
    assert json.loads(edited(payload, edits, has_logprobs=False)) == {
        "a": "z " * 100,
        "b": "z " * 100,
    }
    assert read == [b"x " * 100, b"y " * 100]


@pytest.mark.parametrize(
    "value",
    [
        "null",
        '{"content": [{"token": "\\"}]", "bytes": [1, {"logprobs": 1}]}]}',
        "[]",
        '"a\\"b"',
        "-1.5e3",
    ],
)
@pytest.mark.parametrize("key", ["logprobs", "logprobsResult", "log\\u0070robs"])
def test_probabilities_are_taken_out_and_nothing_else_changes(key: str, value: str) -> None:
    """Large numbers and half an emoji stay as they were spelt."""
    begin = '{"n": 123456789012345678901234567890, "a": "logprobs", "b": "\\ud83d",\n '
    payload = f'{begin}"{key}" : {value} , "c": [{{"{key}":{value}}}, 1.0]}}'
    wanted = f'{begin}"{key}" : null , "c": [{{"{key}":null}}, 1.0]}}'
    assert edited(payload.encode(), [], has_logprobs=True) == wanted.encode()
