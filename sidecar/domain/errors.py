"""Every error a client may receive: one table from its kind to status, text, types and metric."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


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
    UNKNOWN_URL = "unknown_url"
    INVALID_BODY = "invalid_body"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    REQUEST_TRAILERS = "request_trailers"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    BUDGET_EXHAUSTED = "budget_exhausted"
    OUTPUT_LIMIT_EXCEEDED = "output_limit_exceeded"
    UNCOUNTED_USAGE = "uncounted_usage"
    GUARDRAIL_UNAVAILABLE = "guardrail_unavailable"
    AUTHORIZATION_UNAVAILABLE = "authorization_unavailable"
    OVERLOADED = "overloaded"
    UNSUPPORTED_PROCESSING_MODE = "unsupported_processing_mode"
    INTERNAL_ERROR = "internal_error"

    __hash__ = object.__hash__  # that of an enum is a call of Python for each look-up

    spec: ErrorSpec
    """How errors of this kind are written and counted; set below, from one table."""


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """How an error of one kind is written and counted.

    `message` is its text where the failure has no details of its own. OpenAI's `type` is coarse:
    its client library goes by the status, people by `code`. Anthropic's is paired with statuses as
    its page of HTTP errors does. `is_authorization` counts it in `egret_authorizations_total`.
    """

    status: int
    message: str
    openai_type: str
    anthropic_type: str
    param: str | None = None
    is_authorization: bool = False

    @property
    def retry_after_seconds(self) -> int | None:
        """Return when to try again, where Egret cannot answer now."""
        return RETRY_AFTER_SECONDS if self.status == 503 else None  # noqa: PLR2004 - HTTP status


RETRY_AFTER_SECONDS: Final = 2
"""About as long as a database takes to come back or a worker to restart."""

_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"


def _unauthenticated(message: str) -> ErrorSpec:
    return ErrorSpec(401, message, _INVALID, "authentication_error", is_authorization=True)


def _forbidden(
    message: str, *, param: str | None = None, is_authorization: bool = True
) -> ErrorSpec:
    return ErrorSpec(
        403, message, _INVALID, "permission_error", param, is_authorization=is_authorization
    )


def _invalid(message: str) -> ErrorSpec:
    return ErrorSpec(400, message, _INVALID, _INVALID)


_SPECS: Final = {
    ErrorKind.MISSING_API_KEY: _unauthenticated(
        "No API key: send it as 'Authorization: Bearer egk_…' or 'x-api-key: egk_…'."
    ),
    ErrorKind.INVALID_API_KEY: _unauthenticated("This API key is not valid."),
    ErrorKind.CONFLICTING_CREDENTIALS: _unauthenticated(
        "More than one credential was sent, or one twice: send exactly one API key."
    ),
    ErrorKind.CREDENTIAL_IN_QUERY: _unauthenticated(
        "A credential was sent in the query: send the API key in a header, and only there."
    ),
    ErrorKind.EXPIRED_API_KEY: _unauthenticated("This API key has expired: ask for a new one."),
    ErrorKind.REVOKED_API_KEY: _unauthenticated("This API key has been revoked."),
    ErrorKind.DISABLED_API_KEY: _unauthenticated(
        "This API key, its team or its organization is not enabled now."
    ),
    ErrorKind.MODEL_NOT_ALLOWED: _forbidden(
        "This API key may not use the requested model.", param="model"
    ),
    ErrorKind.OPERATION_NOT_ALLOWED: _forbidden("This API key may not be used for this endpoint."),
    ErrorKind.SOURCE_NOT_ALLOWED: _forbidden("This API key may not be used from this network."),
    ErrorKind.CONTENT_BLOCKED: _invalid("This request was blocked by a guardrail."),
    ErrorKind.UNSCANNED_CONTENT: _forbidden(
        "This request holds content that cannot be checked.", is_authorization=False
    ),
    ErrorKind.UNKNOWN_URL: ErrorSpec(
        404, "This gateway does not know this path.", _INVALID, "not_found_error"
    ),
    ErrorKind.INVALID_BODY: _invalid("The request body is incomplete or cannot be read."),
    ErrorKind.BODY_TOO_LARGE: ErrorSpec(
        413, "The request body is larger than this endpoint takes.", _INVALID, "request_too_large"
    ),
    ErrorKind.BODY_TIMEOUT: ErrorSpec(
        408, "The request body took too long to arrive.", _INVALID, "timeout_error"
    ),
    ErrorKind.REQUEST_TRAILERS: _invalid(
        "The request ends in trailers, which this endpoint does not take."
    ),
    ErrorKind.RATE_LIMIT_EXCEEDED: ErrorSpec(
        429, "A rate limit is reached. Try again later.", "rate_limit_error", "rate_limit_error"
    ),
    ErrorKind.BUDGET_EXHAUSTED: ErrorSpec(
        429, "The budget is used up.", "insufficient_quota", "rate_limit_error"
    ),
    ErrorKind.OUTPUT_LIMIT_EXCEEDED: _invalid(
        "The request asks for more output tokens than it may."
    ),
    ErrorKind.UNCOUNTED_USAGE: _forbidden(
        "The use of this request cannot be counted against its limits.", is_authorization=False
    ),
    ErrorKind.GUARDRAIL_UNAVAILABLE: ErrorSpec(
        503,
        "A guardrail could not check this request in time. Try again later.",
        _SERVER,
        "api_error",
    ),
    ErrorKind.AUTHORIZATION_UNAVAILABLE: ErrorSpec(
        503,
        "The API key cannot be checked now. Try again later.",
        _SERVER,
        "api_error",
        is_authorization=True,
    ),
    ErrorKind.OVERLOADED: ErrorSpec(
        503,
        "The gateway has more to do than it can. Try again later.",
        _SERVER,
        "overloaded_error",  # of 529 there, which is a status of Anthropic's own
    ),
    ErrorKind.UNSUPPORTED_PROCESSING_MODE: ErrorSpec(
        500,
        "The gateway is configured in a way that cannot guard requests.",
        _SERVER,
        "api_error",
    ),
    ErrorKind.INTERNAL_ERROR: ErrorSpec(
        500,
        "The request could not be checked because of an internal error.",
        _SERVER,
        "api_error",
    ),
}


for _kind, _spec in _SPECS.items():
    _kind.spec = _spec


@dataclass(frozen=True, slots=True)
class ClientError:
    """A failure worded for the caller; holds nothing internal and nothing it sent.

    `param` names the offending field in the dialect's own terms, for example `model`.
    """

    kind: ErrorKind
    message: str
    param: str | None = None
    retry_after_seconds: int | None = None


def client_error(kind: ErrorKind) -> ClientError:
    """Return the error of *kind* with the text of its specification."""
    spec = kind.spec
    return ClientError(kind, spec.message, spec.param, spec.retry_after_seconds)


class UnreadableMessageError(Exception):
    """Envoy sent bytes that are no message of its protocol, or a kind that Egret does not know."""
