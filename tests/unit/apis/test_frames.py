from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from sidecar.apis.event_stream import EventStreamFramer, event_stream_message
from sidecar.apis.frames import FrameFault, Framer, JsonArrayFramer, SseFramer
from tests.support.cpu_time import least_seconds


def test_a_last_event_without_its_blank_line_is_still_read() -> None:
    """The standard drops it; clients that do not would see what nobody judged."""
    framer = SseFramer()
    assert framer.feed(b'data: {"a":1}\n') == []
    (frame,) = framer.finish()
    assert (frame.raw, frame.payload) == (b'data: {"a":1}\n', b'{"a":1}\n'[:-1])


def test_events_of_mixed_line_ends_stay_apart() -> None:
    """CRLF in one event, LF in the next, a lone CR in a third."""
    frames = SseFramer().feed(b"data: 1\r\n\r\ndata: 2\n\ndata: 3\r\rdata: 4\n\r\n")
    assert [frame.payload for frame in frames] == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_blank_lines_in_a_row_are_of_one_event(end: bytes) -> None:
    """A provider that sends a million of them must not buy a million events."""
    framer = SseFramer()
    text = b"data: 1" + end * 2 + end * 1_001 + b"data: 2" + end * 2
    frames = framer.feed(text) + framer.finish()
    assert [frame.payload for frame in frames if frame.payload is not None] == [b"1", b"2"]
    assert b"".join(frame.raw for frame in frames) == text
    assert len(frames) <= 3


@pytest.mark.parametrize(
    ("framer", "start"),
    [
        (SseFramer, b"data: "),
        (JsonArrayFramer, b'[{"a": "'),
    ],
    ids=["sse", "array"],
)
def test_an_event_without_end_is_given_up_at_the_limit(
    framer: Callable[..., Framer], start: bytes
) -> None:
    """Ten megabytes in one event must not be held; what came is handed out as it was."""
    cutter = framer(limit_bytes=1000)
    fed = start
    cutter.feed(start)
    while cutter.fault is None:
        fed += b"x" * 10
        cutter.feed(b"x" * 10)
    assert cutter.fault is FrameFault.TOO_LARGE
    assert cutter.rest() == fed
    assert len(fed) < 1100


@pytest.mark.parametrize("stream", [b"{}", b"[1]", b'["a"]', b"[{}{}]", b"[,{}]", b"[{}]]", b"x"])
def test_what_is_no_array_of_objects_is_broken(stream: bytes) -> None:
    """Another reader could make something else of it. What was cut before is handed out."""
    framer = JsonArrayFramer()
    frames = framer.feed(stream)
    assert framer.fault is FrameFault.BROKEN
    assert b"".join(frame.raw for frame in frames) + framer.rest() == stream


@pytest.mark.parametrize(
    ("framer", "stream"),
    [
        (JsonArrayFramer(), b'[{"a": 1'),
        (EventStreamFramer(), event_stream_message({":event-type": "x"}, b"{}")[:-1]),
    ],
    ids=["array", "aws"],
)
def test_a_stream_that_ends_within_a_frame_is_broken(framer: Framer, stream: bytes) -> None:
    """What is there of it cannot be judged."""
    framer.feed(stream)
    assert framer.finish() == []
    assert framer.fault is FrameFault.BROKEN
    assert framer.rest() == stream


@pytest.mark.parametrize("stream", [b'[{"a": 1}', b'[{"a": 1},', b"[", b""])
def test_an_array_may_end_between_elements(stream: bytes) -> None:
    """A provider that stops early has said nothing unjudged."""
    framer = JsonArrayFramer()
    frames = framer.feed(stream) + framer.finish()
    assert b"".join(frame.raw for frame in frames) == stream


def test_white_space_between_elements_is_skipped_in_one_step() -> None:
    """A provider that sends a megabyte of blanks held a worker for half a second."""
    short, long = b"[" + b" " * 50_000, b'[{"a":"' + b"a" * 50_000
    blanks, letters = (
        least_seconds(partial(JsonArrayFramer().feed, chunk), tries=1) for chunk in (short, long)
    )
    assert blanks < 20 * letters
    framer = JsonArrayFramer()
    frames = framer.feed(short + b"{}" + b" \t\r\n" * 9 + b", \n{}") + framer.feed(b"\n ]\n")
    assert [one.payload for one in frames] == [b"{}", b"{}", None]
    assert framer.fault is None


@pytest.mark.parametrize(
    ("framer", "start", "piece"),
    [(SseFramer, b"", b":"), (JsonArrayFramer, b'[{"', b"\\"), (EventStreamFramer, b"", b"")],
    ids=["sse", "array", "aws"],
)
def test_single_bytes_cost_linear_time(
    framer: Callable[[], Framer], start: bytes, piece: bytes
) -> None:
    """A provider that sends a long event byte by byte must not buy quadratic time."""

    def feed(times: int) -> None:
        cutter = framer()
        cutter.feed(start)
        for _ in range(times):
            cutter.feed(piece)

    short, long = (least_seconds(partial(feed, times)) for times in (50_000, 200_000))
    assert long < 10 * short
