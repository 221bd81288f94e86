from __future__ import annotations

import json
from functools import partial

import pytest

from sidecar.apis.frames import MAX_FRAME_BYTES
from sidecar.apis.stream_usage import UsageStripper
from tests.support.cpu_time import least_seconds
from tests.support.memory import peak_bytes

COUNTS = b'{"prompt_tokens":3,"completion_tokens":7,"total_tokens":10}'


def shown(*chunks: bytes) -> bytes:
    """Return what a client gets of a stream in these chunks."""
    stripper = UsageStripper()
    last = len(chunks) - 1
    return b"".join(stripper.take(one, is_last=place == last) for place, one in enumerate(chunks))


@pytest.mark.parametrize(
    ("asked", "unasked"),
    [
        (
            b'data: {"choices":[{"delta":{}}],"usage":null}\n\n',
            b'data: {"choices":[{"delta":{}}]}\n\n',
        ),
        (
            b'data: {"id": "c", "usage": null, "choices": [{}]}\n\n',
            b'data: {"id": "c", "choices": [{}]}\n\n',
        ),
        (
            b'data: {"choices":[{}],"usage" : null,"obfuscation":"x"}\r\n\r\n',
            b'data: {"choices":[{}],"obfuscation":"x"}\r\n\r\n',
        ),
        (b'data: {"usage":null,"choices":[{}]}\n\n', b'data: {"choices":[{}]}\n\n'),
        (b'data:{ "usage":null }\n\n', b"data:{  }\n\n"),
        (
            b'data: {"a":{"x":1,"usage":null},"usage":null}\n\n',
            b'data: {"a":{"x":1,"usage":null}}\n\n',
        ),
        (
            b'id: 7\ndata: {"choices":[{}],\ndata: "usage":null}\n\n',
            b'id: 7\ndata: {"choices":[{}]}\n\n',
        ),
        (b'data: {"choices":[],"usage":' + COUNTS + b"}\n\n", b""),
    ],
)
def test_an_event_is_what_it_would_be_had_nobody_asked(asked: bytes, unasked: bytes) -> None:
    """Wherever a provider writes the member; an event of nothing but counts is none."""
    assert shown(asked, b"data: [DONE]\n\n") == unasked + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":{}}],"usage":' + COUNTS + b"}\n\n",
        b'data: {"choices":[],"prompt_filter_results":[{}]}\n\n',
        b'data: {"error":{"message":"no"},"usage":' + COUNTS + b"}\n\n",
        b'data: {"choices":[{"delta":{"content":",\\"usage\\":null}"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"usage"}}]}\n\n',
        b'data: {"choices":[{"usage":null}]}\n\n',
        b'data: ["usage"]\n\n',
        b'data: {"usage":null,\n\n',
        b": usage\n\n",
        b'data: {"choices":[],"usage":null',
    ],
)
def test_what_tells_no_counts_of_our_asking_stays_to_the_byte(event: bytes) -> None:
    """Counts beside a choice, what a text says, what is broken, what never ends."""
    assert shown(event) == event


def test_azure_s_first_event_loses_the_member_and_stays() -> None:
    """Its choices are empty, and it counts nothing."""
    event = b'data: {"choices":[],"prompt_filter_results":[{}],"usage":null}\n\n'
    assert shown(event) == b'data: {"choices":[],"prompt_filter_results":[{}]}\n\n'


NO_COUNTS = b'{"choices":[{}],"usage":null}'


@pytest.mark.parametrize(
    "event",
    [
        b": " + NO_COUNTS + b"\ndata: %b\n\n",
        b"event: x" + NO_COUNTS + b"\r\ndata:%b\r\n: data: " + NO_COUNTS + b"\r\n\r\n",
        b"\xef\xbb\xbfdata: %b\nid: " + NO_COUNTS + b"\n\n",
    ],
)
def test_a_line_that_repeats_the_data_stays(event: bytes) -> None:
    """Only data is read by a client."""
    assert shown(event % NO_COUNTS) == event % b'{"choices":[{}]}'


def test_an_event_of_comments_that_repeat_its_data_takes_linear_time() -> None:
    """A provider that repeats it a hundred thousand times must not hold up the worker."""
    data = b'{"usage":null}'
    seconds: list[float] = []
    for times in (17_000, 68_000):
        comments = b": " + data * times
        event = comments + b"\ndata: " + data + b"\n\n"
        assert shown(event) == comments + b"\ndata: {}\n\n"
        seconds.append(least_seconds(partial(shown, event)))
    assert seconds[1] < 10 * seconds[0]


def test_an_event_of_many_members_is_not_kept_piece_by_piece() -> None:
    """Reading it takes what a JSON parser takes, and no more for where each member stands."""
    few, many = (
        b'data: {"usage":null,"choices":[' + b",".join([b"{}"] * n) + b"]}\n\n" for n in (1, 9999)
    )
    assert shown(few) == b'data: {"choices":[{}]}\n\n'
    assert peak_bytes(lambda: shown(many)) < 100 * len(many)


def test_an_event_without_end_goes_on_as_it_comes() -> None:
    """No memory holds it, and nothing behind it can be read."""
    long = b"data: " + b"x" * MAX_FRAME_BYTES
    rest = b'data: {"choices":[],"usage":' + COUNTS + b"}\n\n"
    assert shown(b": a\n\n" + long, rest, b"") == b": a\n\n" + long + rest


def test_each_event_goes_on_with_its_last_byte() -> None:
    """A client waits for nothing but what it could not use anyway."""
    stripper = UsageStripper()
    event = b"data: " + json.dumps({"choices": [{}], "usage": None}).encode() + b"\n\n"
    assert [stripper.take(event[at : at + 1], is_last=False) for at in range(len(event))] == [
        *[b""] * (len(event) - 1),
        b'data: {"choices": [{}]}\n\n',
    ]
