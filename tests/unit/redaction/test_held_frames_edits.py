from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType

import pytest

from sidecar.apis.frames import Opaque
from sidecar.domain.cooperative import SLICE_CANDIDATES, run_sync
from sidecar.guardrails.streaming.transcript import TokenText
from sidecar.guardrails.streaming.window import StreamWindow
from sidecar.redaction.held_frames import HeldFrames, TokenEdit, edited

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
            [TokenEdit(4, 3, 6, b'"[X_1]"', is_json=True, is_bare=True)],
            PAYLOAD.replace(b"eve", b'\\"[X_1]\\"'),
        ),
    ],
    ids=["none", "escape", "number", "several", "json", "bare number"],
)
def test_only_the_bytes_of_the_spans_change(edits: list[TokenEdit], wanted: bytes) -> None:
    """Escapes are taken out whole; what is put in is escaped as deep as it stands."""
    assert run_sync(edited(PAYLOAD, edits, has_logprobs=False)) == wanted


def test_spans_that_were_widened_over_each_other_leave_nothing_between() -> None:
    """Two that begin within one escape: the first stands for both."""
    edits = [TokenEdit(1, 2, 6, b"[A_1]"), TokenEdit(1, 5, 17, b"[B_1]")]
    assert run_sync(edited(PAYLOAD, edits, has_logprobs=False)) == PAYLOAD.replace(
        b"bob\\u0040example.com", b"[A_1]"
    )


def test_an_edit_of_a_token_that_is_not_there_raises() -> None:
    """Nothing that was to be taken out goes on unchanged."""
    for location in (6, -2):
        with pytest.raises(ValueError, match="not in the text"):
            run_sync(edited(PAYLOAD, [TokenEdit(location, 0, 1, b"z")], has_logprobs=False))


def calls_for(findings: int) -> int:
    """Return how many calls it takes to edit so many findings out of one text."""
    payload = b'{"a":"' + b"bob@example.com\\n" * findings + b'"}'
    edits = [TokenEdit(1, at * 16, at * 16 + 15, b"[X]") for at in range(findings)]
    calls = 0

    def profile(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        shown = run_sync(edited(payload, edits, has_logprobs=False))
    finally:
        sys.setprofile(before)
    assert shown == b'{"a":"' + b"[X]\\n" * findings + b'"}'
    return calls


def test_many_findings_in_one_text_cost_no_more_each_than_a_few() -> None:
    """A text of megabytes may have two thousand; it is not read anew for each."""
    assert calls_for(800) < 5 * calls_for(200)


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
    assert run_sync(edited(payload.encode(), [], has_logprobs=True)) == wanted.encode()


def test_the_events_of_a_whole_answer_leave_in_turns() -> None:
    """Fifty thousand changed events held a worker for almost a second."""
    held = HeldFrames()
    events = [Opaque(f"event {number}\n".encode(), None) for number in range(1_000)]
    for event in events:
        held.add(event, is_unread=True)
    turns, left = 0, None
    steps = held.release_in_turns(unread=True)
    while left is None:
        try:
            next(steps)
        except StopIteration as end:
            left = end.value
        else:
            turns += 1
    assert left == (b"".join(one.raw for one in events),)
    assert turns == 1_000 // SLICE_CANDIDATES
    assert held.size_bytes == 0


def test_an_event_whose_text_is_not_judged_does_not_leave() -> None:
    """Nor do those behind it, be the answer whole or not."""
    held, window = HeldFrames(), StreamWindow(0)
    window.add(b"text")
    held.add(Opaque(b"first", None))
    held.add(Opaque(b"text", None), [TokenText(window, 0, 4, 0)])
    held.add(Opaque(b"last", None))
    assert run_sync(held.release_in_turns(unread=True)) == (b"first",)
    window.settle(4)
    assert run_sync(held.release_in_turns(unread=True)) == (b"textlast",)


@pytest.mark.parametrize(
    ("payload", "edits", "has_logprobs"),
    [
        (b'{"a":["%b"]}' % b'","'.join([b"bob"] * 3_000), range(1, 3_001), False),
        (b'{"a":["%b","bob"]}' % b'","'.join([b"a"] * 50_000), [50_001], False),
        (b'{"b":"bob","logprobs":[%b]}' % b",".join([b'{"a":"a"}'] * 50_000), [1], True),
    ],
    ids=["many edits", "many strings", "probabilities"],
)
def test_a_long_event_is_changed_in_turns(
    payload: bytes, edits: Iterable[int], *, has_logprobs: bool
) -> None:
    """The probabilities of eight megabytes held a worker for three seconds."""
    changes = [TokenEdit(at, 0, 3, b"[X]") for at in edits]
    assert sum(1 for _ in edited(payload, changes, has_logprobs=has_logprobs)) > 40
