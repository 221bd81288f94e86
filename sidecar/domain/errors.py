"""Everything a client may be told went wrong: one table from kind to status and words."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never


class ErrorKind(enum.Enum):
    """A closed set; the value is the stable `code` a client and a dashboard see."""

    MISSING_API_KEY = "missing_api_key"
    INVALID_API_KEY = "invalid_api_key"
    CONFLICTING_CREDENTIALS = "conflicting_credentials"
    CREDENTIAL_IN_QUERY = "credential_in_query"
    EXPIRED_API_KEY = "expired_api_key"
    REVOKED_API_KEY = "revoked_api_key"
    DISABLED_API_KEY = "disabled_api_key"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    OPERATION_NOT_ALLOWED = "operation_not_allowed"
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    CONTENT_BLOCKED = "content_blocked"
    UNSCANNED_CONTENT = "unscanned_content"
    INVALID_BODY = "invalid_body"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    REQUEST_TRAILERS = "request_trailers"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    BUDGET_EXHAUSTED = "budget_exhausted"
    OUTPUT_LIMIT_EXCEEDED = "output_limit_exceeded"
    GUARDRAIL_UNAVAILABLE = "guardrail_unavailable"
    AUTHORIZATION_UNAVAILABLE = "authorization_unavailable"
    OVERLOADED = "overloaded"
    UNSUPPORTED_PROCESSING_MODE = "unsupported_processing_mode"
    INTERNAL_ERROR = "internal_error"

    @property
    def http_status(self) -> int:  # noqa: C901, PLR0911 - one line a group of kinds
        """HTTP status of the refusal."""
        match self:
            case (
                ErrorKind.MISSING_API_KEY
                | ErrorKind.INVALID_API_KEY
                | ErrorKind.CONFLICTING_CREDENTIALS
                | ErrorKind.CREDENTIAL_IN_QUERY
                | ErrorKind.EXPIRED_API_KEY
                | ErrorKind.REVOKED_API_KEY
                | ErrorKind.DISABLED_API_KEY
            ):
                return 401
            case (
                ErrorKind.MODEL_NOT_ALLOWED
                | ErrorKind.OPERATION_NOT_ALLOWED
                | ErrorKind.SOURCE_NOT_ALLOWED
                | ErrorKind.UNSCANNED_CONTENT
            ):
                return 403
            case (
                ErrorKind.CONTENT_BLOCKED
                | ErrorKind.INVALID_BODY
                | ErrorKind.REQUEST_TRAILERS
                | ErrorKind.OUTPUT_LIMIT_EXCEEDED
            ):
                return 400
            case ErrorKind.RATE_LIMIT_EXCEEDED | ErrorKind.BUDGET_EXHAUSTED:
                return 429
            case ErrorKind.BODY_TOO_LARGE:
                return 413
            case ErrorKind.BODY_TIMEOUT:
                return 408
            case (
                ErrorKind.GUARDRAIL_UNAVAILABLE
                | ErrorKind.AUTHORIZATION_UNAVAILABLE
                | ErrorKind.OVERLOADED
            ):
                return 503
            case ErrorKind.UNSUPPORTED_PROCESSING_MODE | ErrorKind.INTERNAL_ERROR:
                return 500
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class ClientError:
    """A failure worded for the caller; holds nothing internal and nothing it sent.

    `param` names the offending field in the dialect's own terms, for example `model`.
    """

    kind: ErrorKind
    message: str
    param: str | None = None
    retry_after_seconds: int | None = None
