"""How each API says in the middle of a stream that there is no more: an error and its end."""

from __future__ import annotations

from typing import Final, assert_never

import orjson

from sidecar.dialects.answer_form import AnswerForm
from sidecar.dialects.aws_event_stream import event_stream_message
from sidecar.dialects.error_body import error_body
from sidecar.domain.errors import ClientError
from sidecar.domain.subject import Dialect


def stream_error(
    form: AnswerForm,
    error: ClientError,
    *,
    dialect: Dialect,
    is_typed: bool = False,
    follows_element: bool = False,
) -> bytes:
    """Return the last bytes of a stream that is ended here.

    `is_typed` is OpenAI's responses API, whose events have names. `follows_element` tells whether
    an element of a JSON array has left already.
    """
    match form:
        case AnswerForm.SSE:
            return _sse(error, dialect=dialect, is_typed=is_typed)
        case AnswerForm.JSON_ARRAY:
            opening = b"," if follows_element else b"["
            return opening + error_body(dialect, error) + b"]"
        case AnswerForm.EVENT_STREAM:
            return _event_stream(error)
        case AnswerForm.JSON | AnswerForm.TEXT:
            raise AssertionError("an answer that is not streamed is refused as a whole")
        case _:
            assert_never(form)


def _sse(error: ClientError, *, dialect: Dialect, is_typed: bool) -> bytes:
    if is_typed:
        typed = {
            "type": "error",
            "code": error.kind.value,
            "message": error.message,
            "param": error.param,
            "sequence_number": 0,
        }
        return b"event: error\ndata: " + orjson.dumps(typed) + b"\n\n"
    data = b"data: " + error_body(dialect, error) + b"\n\n"
    if dialect is Dialect.ANTHROPIC:
        return b"event: error\n" + data
    return data + b"data: [DONE]\n\n" if dialect in _ENDING_IN_DONE else data


_ENDING_IN_DONE: Final = frozenset({Dialect.OPENAI, Dialect.AZURE_OPENAI})


def _event_stream(error: ClientError) -> bytes:
    # Amazon's clients know this exception on every streaming operation.
    headers = {
        ":exception-type": "modelStreamErrorException",
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    return event_stream_message(headers, orjson.dumps({"message": error.message}))
