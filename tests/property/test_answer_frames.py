from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.apis.event_stream import EventStreamFramer, event_stream_message
from sidecar.apis.frames import Frame, Framer, JsonArrayFramer, SseFramer
from tests.support.answers import cut

LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
PLAIN = st.text(
    st.one_of(st.sampled_from('{}[]",:\\ é😀'), st.characters(exclude_categories=["Cs", "Cc"])),
    max_size=12,
)
ITEMS = st.lists(st.dictionaries(PLAIN, PLAIN, max_size=2), max_size=2)
DOCUMENTS = st.dictionaries(PLAIN, st.one_of(PLAIN, ITEMS), max_size=3)
BLANKS = st.sampled_from(["", " ", "\n", ",\r\n", "\t\n "])


def invoked(data: bytes) -> bytes:
    """Return an event of a model's own as InvokeModel sends it."""
    chunk = {"bytes": base64.b64encode(data).decode(), "p": "abc"}
    return event_stream_message({":event-type": "chunk"}, orjson.dumps(chunk))


def frames_of(framer: Framer, chunks: Sequence[bytes]) -> list[Frame]:
    """Feed all *chunks* and return all frames."""
    frames = [frame for chunk in chunks for frame in framer.feed(chunk)]
    return frames + framer.finish()


CUTS = st.lists(st.integers(0, 2**16), max_size=40)


@st.composite
def sse_streams(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return a stream and the (event, data) pairs a client reads from it."""
    stream, read = draw(st.sampled_from(["", "\ufeff"])), []
    for _ in range(draw(st.integers(0, 5))):
        lines = draw(st.lists(PLAIN, min_size=1, max_size=3))
        event = draw(st.sampled_from(["", "message_start", "ping"]))
        extra = draw(st.sampled_from([[], [": keep-alive"], ["id: 7"], ["retry: 10"], ["data"]]))
        rows = [*([f"event: {event}"] if event else []), *extra, *(f"data: {x}" for x in lines)]
        # An empty line of data and a line feed would make CR and LF one line end.
        end = draw(LINE_ENDS)
        stream += "".join(row + end for row in rows) + end
        data = ["", *lines] if extra == ["data"] else lines
        read.append((event, "\n".join(data).encode()))
    return stream.encode(), read


@given(stream=sse_streams(), places=CUTS)
def test_events_are_the_same_however_the_stream_is_cut(
    stream: tuple[bytes, list[tuple[str, bytes]]], places: list[int]
) -> None:
    """CR, LF and CRLF, comments, a byte order mark, data over several lines."""
    raw, read = stream
    for chunks in (cut(raw, places), [raw[at : at + 1] for at in range(len(raw))]):
        frames = frames_of(SseFramer(), chunks)
        assert b"".join(frame.raw for frame in frames) == raw
        events = [(frame.event, frame.payload) for frame in frames if frame.payload is not None]
        assert events == read


@given(stream=sse_streams())
def test_an_event_is_there_with_its_last_byte(
    stream: tuple[bytes, list[tuple[str, bytes]]],
) -> None:
    """A client that reads line by line would have it by then; waiting on costs it an event."""
    raw, read = stream
    framer = SseFramer()
    frames = [frame for at in range(len(raw)) for frame in framer.feed(raw[at : at + 1])]
    assert len([frame for frame in frames if frame.payload is not None]) == len(read)


@given(documents=st.lists(DOCUMENTS, max_size=5), blanks=st.lists(BLANKS, min_size=6), places=CUTS)
def test_array_elements_are_the_same_however_the_stream_is_cut(
    documents: list[object], blanks: list[str], places: list[int]
) -> None:
    """Braces and quotes in strings, escapes cut in two, any white space between elements."""
    space = [blank.replace(",", "") for blank in blanks]
    rows = [space[n % 6] + orjson.dumps(doc).decode() for n, doc in enumerate(documents)]
    raw = (space[0] + "[" + ",".join(rows) + space[1] + "]" + space[2]).encode()
    for chunks in (cut(raw, places), [raw[at : at + 1] for at in range(len(raw))]):
        frames = frames_of(JsonArrayFramer(), chunks)
        assert b"".join(frame.raw for frame in frames) == raw
        payloads = [frame.payload for frame in frames if frame.payload is not None]
        assert [orjson.loads(payload) for payload in payloads] == documents


@given(payloads=st.lists(st.binary(max_size=40), max_size=5), places=CUTS)
def test_messages_are_the_same_however_the_stream_is_cut(
    payloads: list[bytes], places: list[int]
) -> None:
    """Amazon's framing is binary: any byte may stand anywhere."""
    headers = {":event-type": "contentBlockDelta", ":message-type": "event"}
    raw = b"".join(event_stream_message(headers, payload) for payload in payloads)
    for chunks in (cut(raw, places), [raw[at : at + 1] for at in range(len(raw))]):
        frames = frames_of(EventStreamFramer(), chunks)
        assert b"".join(frame.raw for frame in frames) == raw
        assert [frame.payload or b"" for frame in frames] == payloads
        assert all(frame.event == "contentBlockDelta" for frame in frames)


@given(payload=st.binary(max_size=40), place=st.integers(0, 2**16), bit=st.integers(0, 7))
def test_a_flipped_bit_never_passes_for_a_message(payload: bytes, place: int, bit: int) -> None:
    """Both sums are checked; what cannot be trusted is not read."""
    raw = bytearray(event_stream_message({":event-type": "x"}, payload))
    raw[place % len(raw)] ^= 1 << bit
    framer = EventStreamFramer()
    assert frames_of(framer, [bytes(raw)]) == []
    assert framer.fault is not None
    assert framer.rest() == raw


@pytest.mark.parametrize(
    ("framer", "make"),
    [
        (SseFramer, lambda data: b"event: x\r\nid: 3\r\ndata: " + data + b"\r\n\r\n"),
        (SseFramer, lambda data: b"data: " + data + b"\n\n"),
        (SseFramer, lambda data: b"data:" + data + b"\ndata: \n\n"),
        (JsonArrayFramer, lambda data: b" [" + data),
        (EventStreamFramer, lambda data: event_stream_message({":event-type": "x"}, data)),
        (EventStreamFramer, invoked),
    ],
    ids=["sse-crlf", "sse", "sse-odd", "array", "aws", "bedrock"],
)
@given(document=DOCUMENTS, other=DOCUMENTS)
def test_a_frame_can_carry_another_document(
    framer: Callable[[], Framer],
    make: Callable[[bytes], bytes],
    document: object,
    other: object,
) -> None:
    """What was `event` or `id` stays; the framing fits the new text."""
    (frame,) = framer().feed(make(orjson.dumps(document)))
    changed = frame.with_payload(orjson.dumps(other))
    (again,) = framer().feed(changed)
    assert orjson.loads(again.payload or b"") == other
    assert again.event == frame.event
    assert (b"id: 3" in changed) == (b"id: 3" in frame.raw)
