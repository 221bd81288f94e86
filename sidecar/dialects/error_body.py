"""Refusals as each API words them, so that unchanged client libraries raise the right error."""

from __future__ import annotations

from typing import assert_never

import orjson

from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.subject import Dialect


def error_body(dialect: Dialect, error: ClientError) -> bytes:
    """Return the JSON error object that a client of *dialect* expects."""
    match dialect:
        case Dialect.OPENAI:
            return _openai(error)
        case Dialect.ANTHROPIC:
            return _anthropic(error)
        case _:
            assert_never(dialect)


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


def openai_type(kind: ErrorKind) -> str:
    """Return OpenAI's error `type`: coarse, bad keys and forbidden models included.

    The client library goes by the status, people by `code`.
    """
    match kind:
        case (
            ErrorKind.MISSING_API_KEY
            | ErrorKind.INVALID_API_KEY
            | ErrorKind.CONFLICTING_CREDENTIALS
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
        ):
            return "invalid_request_error"
        case (
            ErrorKind.GUARDRAIL_UNAVAILABLE
            | ErrorKind.AUTHORIZATION_UNAVAILABLE
            | ErrorKind.UNSUPPORTED_PROCESSING_MODE
            | ErrorKind.INTERNAL_ERROR
        ):
            return "server_error"
        case _:
            assert_never(kind)


def anthropic_type(kind: ErrorKind) -> str:
    """Return Anthropic's error `type`, as its page of HTTP errors pairs them with statuses."""
    match kind:
        case (
            ErrorKind.MISSING_API_KEY
            | ErrorKind.INVALID_API_KEY
            | ErrorKind.CONFLICTING_CREDENTIALS
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
        case ErrorKind.CONTENT_BLOCKED | ErrorKind.INVALID_BODY | ErrorKind.REQUEST_TRAILERS:
            return "invalid_request_error"
        case ErrorKind.BODY_TOO_LARGE:
            return "request_too_large"
        case ErrorKind.BODY_TIMEOUT:
            return "timeout_error"
        case (
            ErrorKind.GUARDRAIL_UNAVAILABLE
            | ErrorKind.AUTHORIZATION_UNAVAILABLE
            | ErrorKind.UNSUPPORTED_PROCESSING_MODE
            | ErrorKind.INTERNAL_ERROR
        ):
            return "api_error"
        case _:
            assert_never(kind)
