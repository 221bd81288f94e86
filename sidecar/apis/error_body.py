"""Error bodies and error events in each client's API dialect."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, assert_never

import orjson

from sidecar.apis.event_stream import event_stream_message
from sidecar.apis.response_structure import AnswerForm
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import GOOGLE, Dialect, RequestForm, Route


def error_body(
    dialect: Dialect, error: ClientError, *, request_id: str = "", contact: str = ""
) -> bytes:
    """Return the JSON error object that a client of *dialect* expects.

    Its message ends with *contact*, the operator's own line, and the request id, which is also in
    the fields that Anthropic and Google have for it.
    """
    message = _full_message(error, request_id=request_id, contact=contact)
    match dialect:
        case Dialect.OPENAI | Dialect.AZURE_OPENAI:
            detail = {
                "message": message,
                "type": error.kind.spec.openai_type,
                "param": error.param,
                "code": error.kind.value,
            }
            return orjson.dumps({"error": detail})
        case Dialect.ANTHROPIC:
            words = {"type": error.kind.spec.anthropic_type, "message": message}
            named = {"request_id": request_id} if request_id else {}
            return orjson.dumps({"type": "error", "error": words, **named})
        case Dialect.GEMINI | Dialect.VERTEX_AI:
            # As google.rpc.Status is written in JSON; the reason is ours, and so is its domain.
            kind = "type.googleapis.com/google.rpc."
            details = [{"@type": f"{kind}ErrorInfo", "reason": error.kind.name, "domain": "egret"}]
            if request_id:
                details.append({"@type": f"{kind}RequestInfo", "requestId": request_id})
            return orjson.dumps(
                {
                    "error": {
                        "code": error.kind.spec.status,
                        "message": message,
                        "status": gemini_status(error.kind),
                        "details": details,
                    }
                }
            )
        case Dialect.BEDROCK:
            return orjson.dumps({"message": message})
        case _:
            assert_never(dialect)


def _full_message(error: ClientError, *, request_id: str, contact: str) -> str:
    message = f"{error.message} {contact}" if contact else error.message
    return f"{message} Request id: {request_id}." if request_id else message


def error_headers(
    dialect: Dialect, error: ClientError, *, request_id: str = ""
) -> tuple[tuple[str, bytes], ...]:
    """Return the headers from which clients of *dialect* read AWS's error type and the id.

    Claude Code would send a refused key for minutes, and show nothing until then.
    """
    named: tuple[tuple[str, bytes], ...] = ()
    if error.kind.spec.status == HTTPStatus.UNAUTHORIZED:
        named = ((HeaderName.SHOULD_RETRY, b"false"),)
    if request_id:
        name: str = HeaderName.REQUEST_ID
        if dialect is Dialect.ANTHROPIC:
            name = HeaderName.ANTHROPIC_REQUEST_ID
        elif dialect is Dialect.BEDROCK:
            name = HeaderName.AMZN_REQUEST_ID
        named = (*named, (name, request_id.encode("ascii", "replace")))
    if dialect is not Dialect.BEDROCK:
        return named
    return ((HeaderName.AMZN_ERROR_TYPE, bedrock_type(error.kind).encode()), *named)


def gemini_status(kind: ErrorKind) -> str:
    """Return the name of Google's canonical code, as google/rpc/code.proto pairs it with HTTP."""
    return _GOOGLE_STATUSES[kind.spec.status]


def bedrock_type(kind: ErrorKind) -> str:
    """Return the exception that AWS's clients raise, by the runtime API's table of errors."""
    return _BEDROCK_TYPES[kind.spec.status]


_GOOGLE_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

_BEDROCK_TYPES: Final = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    413: "ValidationException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
"""By status: every status of an `ErrorKind` is here, which a test walks through."""


def stream_error(
    form: AnswerForm,
    error: ClientError,
    *,
    route: Route,
    headers: Headers,
    request_id: str = "",
    contact: str = "",
    follows_element: bool = False,
) -> bytes:
    """Return the last bytes of a stream that is ended here; messages end as in `error_body`.

    *route* and *headers* are those of the request; Google's clients name their language in a
    header. `follows_element` is set if an element of a JSON array was sent already.
    """
    dialect, is_typed = route.dialect, route.form in _TYPED
    body = error_body(dialect, error, request_id=request_id, contact=contact)
    message = _full_message(error, request_id=request_id, contact=contact)
    match form:
        case AnswerForm.SSE:
            if is_typed and dialect is Dialect.GEMINI:
                told = {"code": error.kind.value, "message": message}
                data = orjson.dumps({"event_type": "error", "error": told})
                return b"event: error\ndata: " + data + b"\n\n"
            if is_typed:
                return _typed_error(error, message)
            data = b"data: " + body + b"\n\n"
            if dialect in GOOGLE:
                # Google's server sends the bare JSON. Its client for JavaScript finds it if it is
                # all of a chunk, that for Go if it stands between events; both take it for an
                # empty answer in an event. That for Java reads events alone.
                client = headers.text(HeaderName.X_GOOG_API_CLIENT)
                return body if _JAVASCRIPT in client else body + b"\n\n" + data
            if dialect is Dialect.ANTHROPIC:
                return b"event: error\n" + data
            return data + b"data: [DONE]\n\n" if dialect in _ENDING_IN_DONE else data
        case AnswerForm.JSON_ARRAY:
            opening = b"," if follows_element else b"["
            return opening + body + b"]"
        case AnswerForm.EVENT_STREAM:
            # Amazon's clients know this exception on every streaming operation.
            framing = {
                ":exception-type": "modelStreamErrorException",
                ":content-type": "application/json",
                ":message-type": "exception",
            }
            return event_stream_message(framing, orjson.dumps({"message": message}))
        case AnswerForm.JSON | AnswerForm.TEXT:
            raise AssertionError("an answer that is not streamed is refused as a whole")
        case _:
            assert_never(form)


def _typed_error(error: ClientError, message: str) -> bytes:
    """Return the two events at the end of OpenAI's responses API.

    The first is in the form of its specification, and in that of its server: its libraries raise
    on the inner `error`. Codex goes by the second alone. Without it, or with another code than
    `invalid_prompt`, Codex asks the model five more times.
    """
    inner = {"message": message, "param": error.param, "code": error.kind.value}
    told: dict[str, object] = {
        "type": "error",
        **inner,
        "sequence_number": 0,
        "error": {**inner, "type": error.kind.spec.openai_type},
    }
    is_final = error.kind.spec.status < HTTPStatus.INTERNAL_SERVER_ERROR
    reason = {"code": "invalid_prompt" if is_final else "server_error", "message": message}
    failed: dict[str, object] = {
        "type": "response.failed",
        "sequence_number": 0,
        "response": {
            "id": "",
            "object": "response",
            "created_at": 0,
            "status": "failed",
            "error": reason,
            "incomplete_details": None,
            "output": [],
        },
    }
    first = b"event: error\ndata: " + orjson.dumps(told) + b"\n\n"
    return first + b"event: response.failed\ndata: " + orjson.dumps(failed) + b"\n\n"


_TYPED: Final = frozenset({RequestForm.RESPONSES, RequestForm.INTERACTION})
"""Of APIs whose events have names."""
_JAVASCRIPT: Final = "gl-node/"
_ENDING_IN_DONE: Final = frozenset({Dialect.OPENAI, Dialect.AZURE_OPENAI})
