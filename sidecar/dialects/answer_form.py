"""How an answer comes: streamed in which framing, whole, as plain text, or unreadable."""

from __future__ import annotations

import enum
from typing import Final, assert_never

from sidecar.dialects.aws_event_stream import EventStreamFramer
from sidecar.dialects.frames import Framer
from sidecar.dialects.json_array import JsonArrayFramer
from sidecar.dialects.sse import SseFramer
from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import (
    Route,
    UnknownRoute,
    Unreadable,
    UnscannedReason,
)

_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})
_SCRIPTS: Final = frozenset({"text/javascript", "text/ecmascript", "text/x-javascript"})
"""JSON within a call (JSONP) comes as these: as plain text its strings would keep their escapes,
and what is spread over several would not be joined."""

_GEMINI_STREAM: Final = ":streamGenerateContent"


class AnswerForm(enum.Enum):
    """What the body of an answer is made of."""

    SSE = "sse"
    JSON_ARRAY = "json_array"
    EVENT_STREAM = "event_stream"
    JSON = "json"
    TEXT = "text"

    @property
    def is_streamed(self) -> bool:
        """Whether it comes in events of its own."""
        return self in _STREAMED


_STREAMED: Final = frozenset({AnswerForm.SSE, AnswerForm.JSON_ARRAY, AnswerForm.EVENT_STREAM})


def has_model_text(route: Route | UnknownRoute) -> bool:
    """Tell whether answers on *route* say what a model has written, as far as anybody knows."""
    return isinstance(route, Route) and route.operation.spec.has_model_text


def answer_form(headers: Headers, *, path: str) -> AnswerForm | Unreadable:
    """Return the form that an answer's headers declare; *path* is that of its request."""
    encodings = set(headers.all(HeaderName.CONTENT_ENCODING))
    if not {one.strip().lower() for one in encodings} <= {b"identity", b""}:
        return Unreadable(UnscannedReason.ENCODED_BODY)
    types = set(headers.all(HeaderName.CONTENT_TYPE))
    if len(types) != 1:
        return Unreadable(UnscannedReason.UNKNOWN_SHAPE)
    media_type, *parameters = (
        piece.strip().lower() for piece in types.pop().decode("latin-1").split(";")
    )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _CHARSETS:
            return Unreadable(UnscannedReason.CHARSET)
    return _form_of(media_type, path)


def _form_of(media_type: str, path: str) -> AnswerForm | Unreadable:
    match media_type:
        case "text/event-stream":
            return AnswerForm.SSE
        case "application/vnd.amazon.eventstream":
            return AnswerForm.EVENT_STREAM
        case "application/json" if path.partition("?")[0].endswith(_GEMINI_STREAM):
            return AnswerForm.JSON_ARRAY
        case _ if media_type == "application/json" or media_type.endswith("+json"):
            return AnswerForm.JSON
        case _ if media_type.startswith("text/") and media_type not in _SCRIPTS:
            return AnswerForm.TEXT
        case _:
            return Unreadable(UnscannedReason.UNKNOWN_SHAPE)


def framer_of(form: AnswerForm) -> Framer | None:
    """Return what cuts an answer into events; None where it is one event as a whole."""
    match form:
        case AnswerForm.SSE:
            return SseFramer()
        case AnswerForm.JSON_ARRAY:
            return JsonArrayFramer()
        case AnswerForm.EVENT_STREAM:
            return EventStreamFramer()
        case AnswerForm.JSON | AnswerForm.TEXT:
            return None
        case _:
            assert_never(form)
