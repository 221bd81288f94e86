from __future__ import annotations

import orjson
import pytest

from sidecar.apis.error_body import stream_error
from sidecar.apis.response_structure import AnswerForm, framer_of
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.subject import Dialect

ERROR = ClientError(ErrorKind.CONTENT_BLOCKED, "Blocked.")
OPENAI = {
    "message": "Blocked.", "type": "invalid_request_error", "param": None,
    "code": "content_blocked",
}  # fmt: skip


def read(form: AnswerForm, stream: bytes) -> list[tuple[str, object]]:
    """Return event names and documents of a stream."""
    framer = framer_of(form)
    assert framer is not None
    frames = framer.feed(stream)
    assert framer.rest() == b""
    return [
        (frame.event, orjson.loads(frame.payload) if frame.payload[:1] == b"{" else frame.payload)
        for frame in frames
        if frame.payload
    ]


def test_openai_ends_with_an_error_and_its_terminator() -> None:
    """Its clients raise on a field `error`, and stop at `[DONE]`."""
    stream = stream_error(AnswerForm.SSE, ERROR, dialect=Dialect.OPENAI)
    assert read(AnswerForm.SSE, stream) == [("", {"error": OPENAI}), ("", b"[DONE]")]


def test_openai_responses_end_with_an_event_of_that_type() -> None:
    """Typed events have no terminator."""
    stream = stream_error(AnswerForm.SSE, ERROR, dialect=Dialect.OPENAI, is_typed=True)
    typed = {"type": "error", "code": "content_blocked", "message": "Blocked.", "param": None,
             "sequence_number": 0}  # fmt: skip
    assert read(AnswerForm.SSE, stream) == [("error", typed)]


def test_anthropic_ends_with_an_event_named_error() -> None:
    """Its clients raise on the name."""
    stream = stream_error(AnswerForm.SSE, ERROR, dialect=Dialect.ANTHROPIC)
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": "Blocked."}}
    assert read(AnswerForm.SSE, stream) == [("error", body)]


@pytest.mark.parametrize(("follows", "before"), [(False, b""), (True, b'[{"a": 1}\n')])
def test_an_array_is_closed_behind_the_error(before: bytes, *, follows: bool) -> None:
    """What the client has by then is one JSON document."""
    end = stream_error(
        AnswerForm.JSON_ARRAY, ERROR, dialect=Dialect.OPENAI, follows_element=follows
    )
    elements = [{"a": 1}] if follows else []
    assert orjson.loads(before + end) == [*elements, {"error": OPENAI}]


def test_an_event_stream_ends_with_an_exception() -> None:
    """As Bedrock words a failure in the middle of a stream."""
    stream = stream_error(AnswerForm.EVENT_STREAM, ERROR, dialect=Dialect.OPENAI)
    assert read(AnswerForm.EVENT_STREAM, stream) == [
        ("modelStreamErrorException", {"message": "Blocked."})
    ]


def test_an_answer_that_is_not_streamed_has_no_such_end() -> None:
    """It is refused as a whole."""
    with pytest.raises(AssertionError):
        stream_error(AnswerForm.JSON, ERROR, dialect=Dialect.OPENAI)
