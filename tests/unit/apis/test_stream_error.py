from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.apis import error_body
from sidecar.apis.response_structure import AnswerForm, framer_of
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.http import Headers
from sidecar.domain.subject import Dialect, Operation, RequestForm, Route

ERROR = ClientError(ErrorKind.CONTENT_BLOCKED, "Blocked.")
OPENAI = {
    "message": "Blocked.", "type": "invalid_request_error", "param": None,
    "code": "content_blocked",
}  # fmt: skip


TYPED = {Dialect.OPENAI: RequestForm.RESPONSES, Dialect.GEMINI: RequestForm.INTERACTION}


def stream_error(
    form: AnswerForm, error: ClientError, *, dialect: Dialect, is_typed: bool = False, **about: Any
) -> bytes:
    """Return the end of a stream of an API of this dialect, with typed events or without."""
    asked = TYPED[dialect] if is_typed else RequestForm.ANY_OBJECT
    route = Route(dialect, Operation.CHAT, has_body=True, form=asked)
    return error_body.stream_error(form, error, route=route, **{"headers": Headers(), **about})


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


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ErrorKind.CONTENT_BLOCKED, "invalid_prompt"),
        (ErrorKind.UNSCANNED_CONTENT, "invalid_prompt"),
        (ErrorKind.GUARDRAIL_UNAVAILABLE, "server_error"),
    ],
)
def test_openai_responses_end_with_an_error_and_a_failed_response(
    kind: ErrorKind, reason: str
) -> None:
    """Its libraries raise on the inner `error`, Codex gives up on the code of the response."""
    error = ClientError(kind, "No.")
    stream = stream_error(AnswerForm.SSE, error, dialect=Dialect.OPENAI, is_typed=True)
    (name, told), (last, failed) = read(AnswerForm.SSE, stream)
    own = {"code": kind.value, "message": "No.", "param": None}
    assert (name, last) == ("error", "response.failed")
    assert told == {
        "type": "error",
        **own,
        "sequence_number": 0,
        "error": {**own, "type": kind.spec.openai_type},
    }
    assert isinstance(failed, dict)
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": reason, "message": "No."}


@pytest.mark.parametrize(
    ("form", "dialect", "is_typed"),
    [
        (AnswerForm.SSE, Dialect.OPENAI, False),
        (AnswerForm.SSE, Dialect.OPENAI, True),
        (AnswerForm.SSE, Dialect.ANTHROPIC, False),
        (AnswerForm.SSE, Dialect.GEMINI, True),
        (AnswerForm.JSON_ARRAY, Dialect.GEMINI, False),
        (AnswerForm.EVENT_STREAM, Dialect.BEDROCK, False),
    ],
)
def test_the_message_ends_as_that_of_any_refusal(
    form: AnswerForm, dialect: Dialect, *, is_typed: bool
) -> None:
    """With the operator's line and the request id, which a library shows of a stream nowhere."""
    stream = stream_error(
        form, ERROR, dialect=dialect, is_typed=is_typed, request_id="r-1", contact="Ask us."
    )
    times = 3 if is_typed and dialect is Dialect.OPENAI else 1
    assert stream.count(b"Blocked. Ask us. Request id: r-1.") == times


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


def test_googles_interactions_end_with_an_event_of_their_own() -> None:
    """Its client goes by `event_type`, and ignores an event without one."""
    stream = stream_error(AnswerForm.SSE, ERROR, dialect=Dialect.GEMINI, is_typed=True)
    error = {"code": "content_blocked", "message": "Blocked."}
    assert read(AnswerForm.SSE, stream) == [("error", {"event_type": "error", "error": error})]


@pytest.mark.parametrize("dialect", [Dialect.GEMINI, Dialect.VERTEX_AI])
def test_a_stream_of_googles_ends_with_bare_json_and_with_an_event_for_other_clients(
    dialect: Dialect,
) -> None:
    """As Google's server ends it; its client for Java, and some others, read events alone."""
    header = "x-goog-api-client"
    ends = [
        stream_error(AnswerForm.SSE, ERROR, dialect=dialect, headers=Headers(headers))
        for headers in (
            ((header, b"google-genai-sdk/1.30.0 gl-node/v24.1.0"),),
            ((header, b"google-genai-sdk/1.30.0 gl-java/21"),),
            (),
        )
    ]
    error = orjson.loads(ends[0])["error"]
    assert (error["code"], error["message"]) == (400, "Blocked.")
    assert ends[1:] == [ends[0] + b"\n\ndata: " + ends[0] + b"\n\n"] * 2
