"""Refusals as each API words them, so that unchanged client libraries raise the right error."""

from __future__ import annotations

from typing import Final, assert_never

import orjson

from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.http import HeaderName
from sidecar.domain.subject import Dialect


def error_body(dialect: Dialect, error: ClientError) -> bytes:
    """Return the JSON error object that a client of *dialect* expects."""
    match dialect:
        case Dialect.OPENAI | Dialect.AZURE_OPENAI:
            return _openai(error)
        case Dialect.ANTHROPIC:
            return _anthropic(error)
        case Dialect.GEMINI:
            return _gemini(error)
        case Dialect.BEDROCK:
            return orjson.dumps({"message": error.message})
        case _:
            assert_never(dialect)


def error_headers(dialect: Dialect, error: ClientError) -> tuple[tuple[str, bytes], ...]:
    """Return the headers that an error of *dialect* is read from: AWS has its type there."""
    if dialect is not Dialect.BEDROCK:
        return ()
    return ((HeaderName.AMZN_ERROR_TYPE, bedrock_type(error.kind).encode()),)


def _openai(error: ClientError) -> bytes:
    return orjson.dumps(
        {
            "error": {
                "message": error.message,
                "type": openai_type(error.kind),
                "param": error.param,
                "code": error.kind.value,
            }
        }
    )


def _anthropic(error: ClientError) -> bytes:
    # Anthropic's object has no field for a code or a parameter.
    return orjson.dumps(
        {"type": "error", "error": {"type": anthropic_type(error.kind), "message": error.message}}
    )


def _gemini(error: ClientError) -> bytes:
    # As google.rpc.Status is written in JSON; the reason is ours, and so is its domain.
    reason = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.kind.name,
        "domain": "egret",
    }
    return orjson.dumps(
        {
            "error": {
                "code": error.kind.http_status,
                "message": error.message,
                "status": gemini_status(error.kind),
                "details": [reason],
            }
        }
    )


def openai_type(kind: ErrorKind) -> str:
    """Return OpenAI's error `type`: coarse, bad keys and forbidden models included.

    The client library goes by the status, people by `code`.
    """
    match kind:
        case (
            ErrorKind.MISSING_API_KEY
            | ErrorKind.INVALID_API_KEY
            | ErrorKind.CONFLICTING_CREDENTIALS
            | ErrorKind.CREDENTIAL_IN_QUERY
            | ErrorKind.EXPIRED_API_KEY
            | ErrorKind.REVOKED_API_KEY
            | ErrorKind.DISABLED_API_KEY
            | ErrorKind.MODEL_NOT_ALLOWED
            | ErrorKind.OPERATION_NOT_ALLOWED
            | ErrorKind.SOURCE_NOT_ALLOWED
            | ErrorKind.CONTENT_BLOCKED
            | ErrorKind.UNSCANNED_CONTENT
            | ErrorKind.INVALID_BODY
            | ErrorKind.BODY_TOO_LARGE
            | ErrorKind.BODY_TIMEOUT
            | ErrorKind.REQUEST_TRAILERS
            | ErrorKind.OUTPUT_LIMIT_EXCEEDED
        ):
            return "invalid_request_error"
        case ErrorKind.RATE_LIMIT_EXCEEDED:
            return "rate_limit_error"
        case ErrorKind.BUDGET_EXHAUSTED:
            return "insufficient_quota"
        case (
            ErrorKind.GUARDRAIL_UNAVAILABLE
            | ErrorKind.AUTHORIZATION_UNAVAILABLE
            | ErrorKind.OVERLOADED
            | ErrorKind.UNSUPPORTED_PROCESSING_MODE
            | ErrorKind.INTERNAL_ERROR
        ):
            return "server_error"
        case _:
            assert_never(kind)


def anthropic_type(kind: ErrorKind) -> str:  # noqa: C901, PLR0911 - one line a type
    """Return Anthropic's error `type`, as its page of HTTP errors pairs them with statuses."""
    match kind:
        case (
            ErrorKind.MISSING_API_KEY
            | ErrorKind.INVALID_API_KEY
            | ErrorKind.CONFLICTING_CREDENTIALS
            | ErrorKind.CREDENTIAL_IN_QUERY
            | ErrorKind.EXPIRED_API_KEY
            | ErrorKind.REVOKED_API_KEY
            | ErrorKind.DISABLED_API_KEY
        ):
            return "authentication_error"
        case (
            ErrorKind.MODEL_NOT_ALLOWED
            | ErrorKind.OPERATION_NOT_ALLOWED
            | ErrorKind.SOURCE_NOT_ALLOWED
            | ErrorKind.UNSCANNED_CONTENT
        ):
            return "permission_error"
        case (
            ErrorKind.CONTENT_BLOCKED
            | ErrorKind.INVALID_BODY
            | ErrorKind.REQUEST_TRAILERS
            | ErrorKind.OUTPUT_LIMIT_EXCEEDED
        ):
            return "invalid_request_error"
        case ErrorKind.RATE_LIMIT_EXCEEDED | ErrorKind.BUDGET_EXHAUSTED:
            return "rate_limit_error"
        case ErrorKind.BODY_TOO_LARGE:
            return "request_too_large"
        case ErrorKind.BODY_TIMEOUT:
            return "timeout_error"
        case ErrorKind.OVERLOADED:
            return "overloaded_error"  # of 529 there, which is a status of their own
        case (
            ErrorKind.GUARDRAIL_UNAVAILABLE
            | ErrorKind.AUTHORIZATION_UNAVAILABLE
            | ErrorKind.UNSUPPORTED_PROCESSING_MODE
            | ErrorKind.INTERNAL_ERROR
        ):
            return "api_error"
        case _:
            assert_never(kind)


def gemini_status(kind: ErrorKind) -> str:
    """Return the name of Google's canonical code, as google/rpc/code.proto pairs it with HTTP."""
    return _GOOGLE_STATUSES[kind.http_status]


def bedrock_type(kind: ErrorKind) -> str:
    """Return the exception that AWS's clients raise, by the runtime API's table of errors."""
    return _BEDROCK_TYPES[kind.http_status]


_GOOGLE_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
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
    408: "ModelTimeoutException",
    413: "ValidationException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
"""By status: every status of an `ErrorKind` is here, which a test walks through."""
