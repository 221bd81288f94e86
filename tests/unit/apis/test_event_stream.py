from __future__ import annotations

import pytest

from sidecar.apis.event_stream import EventStreamFramer, event_stream_message
from sidecar.apis.frames import FrameFault


def test_a_message_that_says_it_is_too_long_is_given_up_at_once() -> None:
    """Its length stands in front."""
    framer = EventStreamFramer(limit_bytes=100)
    message = event_stream_message({}, b"x" * 200)
    assert framer.feed(message[:11]) == []
    assert framer.feed(message[11:12]) == []
    assert framer.fault is FrameFault.TOO_LARGE
    assert framer.rest() == message[:12]


def test_headers_of_every_type_are_read_over() -> None:
    """Only strings matter; the others have lengths of their own."""
    kinds = {0: b"", 1: b"", 2: b"a", 3: b"ab", 4: b"abcd", 5: b"abcdefgh", 6: b"\0\2ab",
             8: b"abcdefgh", 9: b"abcdefghabcdefgh"}  # fmt: skip
    others = b"".join(b"\1h" + bytes((kind,)) + value for kind, value in kinds.items())
    message = event_stream_message({":exception-type": "boom"}, b"{}")
    (frame,) = EventStreamFramer().feed(message)
    framed = frame.__class__(b"", b"", header_bytes=others + frame.header_bytes)  # type: ignore[call-arg, attr-defined]  # the framer's own class
    (again,) = EventStreamFramer().feed(framed.with_payload(b"{}"))
    assert again.event == "boom"


@pytest.mark.parametrize("headers", [b"\1", b"\1h\x0a", b"\1h\7\0\5ab", b"\1\xff\0", b"\3h"])
def test_headers_that_do_not_add_up_are_broken(headers: bytes) -> None:
    """Lengths past the end, unknown types, names that are no text."""
    (good,) = EventStreamFramer().feed(event_stream_message({}, b"{}"))
    framed = good.__class__(b"", b"", header_bytes=headers)  # type: ignore[call-arg]  # the framer's own class
    framer = EventStreamFramer()
    assert framer.feed(framed.with_payload(b"{}")) == []
    assert framer.fault is FrameFault.BROKEN
