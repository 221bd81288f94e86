"""Whatever a stream says and however it is cut: hidden counts leave no trace."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.apis.stream_usage import UsageStripper
from tests.support.answers import chat_chunk, cut, effective, judged_at_once, judgement, streamed

GUARDED = "[{name: pii, type: pii, stage: output, action: redact, streams: MODE}]"
POLICIES = [effective(GUARDED.replace("MODE", mode)) for mode in ("window", "buffer", "observe")]
COUNTS = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
WORDS = st.lists(
    st.sampled_from(["so", " the", " é😀", '"usage":null', ',"usage":null}', "\n", "\\", "}"]),
    max_size=5,
)
FORMATS = st.sampled_from(
    [
        {"separators": (",", ":"), "ensure_ascii": False},
        {"separators": (",", ":"), "ensure_ascii": True},
        {"separators": (", ", ": "), "ensure_ascii": True},
    ]
)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
CUTS = st.lists(st.integers(0, 2**16), max_size=12)


def event(document: object, *, written: dict[str, Any], end: str) -> bytes:
    """Return one event of a stream."""
    return f"data: {json.dumps(document, **written)}{end}{end}".encode()


def with_member(document: dict[str, object], place: int) -> dict[str, object]:
    """Return the document with `usage: null` at a place among its members."""
    pairs = list(document.items())
    at = place % (len(pairs) + 1)
    return dict([*pairs[:at], ("usage", None), *pairs[at:]])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a stream as it is when nobody asks for counts, and as it is when somebody does."""
    written, end = draw(FORMATS), draw(LINE_ENDS)
    chunks = [chat_chunk({"content": word}) for word in draw(WORDS)]
    chunks.append(chat_chunk({}, finish_reason="stop"))
    place = draw(st.integers(0, 9))
    counts = {**chunks[0], "choices": [], "usage": COUNTS}
    done = f"data: [DONE]{end}{end}".encode()
    unasked = [event(one, written=written, end=end) for one in chunks]
    asked = [event(with_member(one, place), written=written, end=end) for one in chunks]
    extra = event(counts, written=written, end=end)
    return b"".join([*unasked, done]), b"".join([*asked, extra, done])


def ended_with_crlf() -> tuple[bytes, bytes]:
    """Return a stream of one event, as `streams` does."""
    (written, end), chunk = ({"separators": (",", ":")}, "\r\n"), chat_chunk({})
    done = f"data: [DONE]{end}{end}".encode()
    asked = event(with_member(chunk, 0), written=written, end=end)
    extra = event({**chunk, "choices": [], "usage": COUNTS}, written=written, end=end)
    return event(chunk, written=written, end=end) + done, asked + extra + done


def between_cr_and_lf(stream: bytes) -> list[int]:
    """Return where the last line end of each event can be cut in two."""
    return [found.end() - 1 for found in re.finditer(rb"\r\n\r\n", stream)]


@pytest.mark.parametrize("halves", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]])
def test_a_line_end_that_is_cut_in_two_goes_or_stays_with_its_event(halves: list[int]) -> None:
    """Of the event with the counts nothing is left, of the one before it all."""
    unasked, asked = ended_with_crlf()
    places = [between_cr_and_lf(asked)[half] for half in halves]
    stripper = UsageStripper()
    got = [stripper.take(one, is_last=False) for one in cut(asked, places)]
    assert b"".join([*got, stripper.take(b"", is_last=True)]) == unasked
    for policy in POLICIES:
        judge = judgement(policy, hides_usage=True)
        assert streamed(judge, [*cut(asked, places), b""]).body == unasked


@given(stream=streams(), places=CUTS)
def test_what_was_asked_for_is_taken_out_to_the_byte(
    stream: tuple[bytes, bytes], places: list[int]
) -> None:
    """And a provider that does not know the option sends what it always sent."""
    unasked, asked = stream
    for sent in (asked, unasked):
        for chunks in (cut(sent, places), [sent[at : at + 1] for at in range(len(sent))]):
            stripper = UsageStripper()
            got = [stripper.take(one, is_last=False) for one in chunks]
            assert b"".join([*got, stripper.take(b"", is_last=True)]) == unasked


@settings(max_examples=60, deadline=None)
@given(stream=streams(), places=CUTS)
def test_with_guardrails_nothing_else_changes_either(
    stream: tuple[bytes, bytes], places: list[int]
) -> None:
    """In every mode, streamed or held."""
    unasked, asked = stream
    for policy in POLICIES:
        judge = judgement(policy, hides_usage=True)
        result = streamed(judge, [*cut(asked, places), b""])
        assert (result.error, result.body) == (None, unasked)
        whole = judged_at_once(judgement(policy, hides_usage=True), asked)
        assert whole.body == unasked


@settings(max_examples=60, deadline=None)
@given(places=CUTS, word_cuts=st.lists(st.integers(1, 14), max_size=3))
def test_a_value_is_redacted_though_counts_are_hidden(
    places: list[int], word_cuts: list[int]
) -> None:
    """The two changes of one event do not disturb each other."""
    email = "bob@example.com"
    borders = sorted({0, len(email), *word_cuts})
    chunks = [chat_chunk({"content": email[a:b]}) for a, b in pairwise(borders)]
    chunks.append(chat_chunk({"content": " ok"}, finish_reason="stop"))
    written: dict[str, Any] = {"separators": (",", ":")}
    asked = b"".join(event(with_member(one, 9), written=written, end="\n") for one in chunks)
    asked += event({"choices": [], "usage": COUNTS}, written=written, end="\n")
    result = streamed(judgement(POLICIES[0], hides_usage=True), [*cut(asked, places), b""])
    said = [json.loads(line[6:]) for line in result.body.split(b"\n\n") if line]
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in said)
    assert text == "[EMAIL_1] ok"
    assert all("usage" not in one for one in said)
