"""What a client is told for each kind of failure that carries no details of its own."""

from __future__ import annotations

from typing import assert_never

from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.limits import Limit, Measure

RETRY_AFTER_SECONDS = 2
"""About as long as a database takes to come back or a worker to restart."""


def client_error(kind: ErrorKind) -> ClientError:
    """Return the error of *kind* in words that say what to do about it."""
    return ClientError(
        kind,
        _message(kind),
        param="model" if kind is ErrorKind.MODEL_NOT_ALLOWED else None,
        retry_after_seconds=RETRY_AFTER_SECONDS if kind.http_status == 503 else None,  # noqa: PLR2004
    )


def _message(kind: ErrorKind) -> str:  # noqa: C901, PLR0911, PLR0912 - one line a kind
    match kind:
        case ErrorKind.MISSING_API_KEY:
            return "No API key: send it as 'Authorization: Bearer egk_…' or 'x-api-key: egk_…'."
        case ErrorKind.INVALID_API_KEY:
            return "This API key is not valid."
        case ErrorKind.CONFLICTING_CREDENTIALS:
            return "More than one credential was sent, or one twice: send exactly one API key."
        case ErrorKind.CREDENTIAL_IN_QUERY:
            return (
                "A credential was sent in the query: send the API key in a header, and only there."
            )
        case ErrorKind.EXPIRED_API_KEY:
            return "This API key has expired: ask for a new one."
        case ErrorKind.REVOKED_API_KEY:
            return "This API key has been revoked."
        case ErrorKind.DISABLED_API_KEY:
            return "This API key, its team or its organization is not enabled now."
        case ErrorKind.MODEL_NOT_ALLOWED:
            return "This API key may not use the requested model."
        case ErrorKind.OPERATION_NOT_ALLOWED:
            return "This API key may not be used for this endpoint."
        case ErrorKind.SOURCE_NOT_ALLOWED:
            return "This API key may not be used from this network."
        case ErrorKind.CONTENT_BLOCKED:
            return "This request was blocked by a guardrail."
        case ErrorKind.UNSCANNED_CONTENT:
            return "This request holds content that cannot be checked."
        case ErrorKind.INVALID_BODY:
            return "The request body is incomplete or cannot be read."
        case ErrorKind.BODY_TOO_LARGE:
            return "The request body is larger than this endpoint takes."
        case ErrorKind.BODY_TIMEOUT:
            return "The request body took too long to arrive."
        case ErrorKind.REQUEST_TRAILERS:
            return "The request ends in trailers, which this endpoint does not take."
        case ErrorKind.RATE_LIMIT_EXCEEDED:
            return "A rate limit is reached. Try again later."
        case ErrorKind.BUDGET_EXHAUSTED:
            return "The budget is used up."
        case ErrorKind.OUTPUT_LIMIT_EXCEEDED:
            return "The request asks for more output tokens than it may."
        case ErrorKind.GUARDRAIL_UNAVAILABLE:
            return "A guardrail could not check this request in time. Try again later."
        case ErrorKind.AUTHORIZATION_UNAVAILABLE:
            return "The API key cannot be checked now. Try again later."
        case ErrorKind.OVERLOADED:
            return "The gateway has more to do than it can. Try again later."
        case ErrorKind.UNSUPPORTED_PROCESSING_MODE:
            return "The gateway is configured in a way that cannot guard requests."
        case ErrorKind.INTERNAL_ERROR:
            return "The request could not be checked because of an internal error."
        case _:
            assert_never(kind)


def limit_error(limit: Limit, *, retry_after_seconds: int) -> ClientError:
    """Return the error of a limit without room: which, and whose, with its own amount."""
    words = f"The limit of this {limit.level.value} is reached: {_limit_words(limit)}."
    return ClientError(
        ErrorKind.RATE_LIMIT_EXCEEDED,
        f"{words} Try again in {retry_after_seconds} s.",
        retry_after_seconds=retry_after_seconds,
    )


def budget_error(limit: Limit, *, retry_after_seconds: int) -> ClientError:
    """Return the error of a budget that is used up, or too small for this request."""
    return ClientError(
        ErrorKind.BUDGET_EXHAUSTED,
        f"The budget of this {limit.level.value} does not cover this request:"
        f" {_limit_words(limit)}.",
        retry_after_seconds=retry_after_seconds,
    )


def single_request_error(limit: Limit) -> ClientError:
    """Return the error of one request that asks for more than any may."""
    if limit.measure is Measure.REQUEST_BYTES:
        return ClientError(
            ErrorKind.BODY_TOO_LARGE,
            f"The request body is larger than this {limit.level.value} may send:"
            f" {limit.amount} bytes.",
        )
    return ClientError(
        ErrorKind.OUTPUT_LIMIT_EXCEEDED,
        f"The request asks for more output than this {limit.level.value} may:"
        f" {limit.amount} tokens.",
        param="max_tokens",
    )


def _limit_words(limit: Limit) -> str:
    if limit.measure is Measure.CONCURRENT:
        return f"{limit.amount} requests at a time"
    if limit.measure is Measure.COST:
        return f"{limit.amount / 1_000_000:.2f} US dollars a {limit.window.value}"
    return f"{limit.amount} {limit.measure.value.replace('_', ' ')} a {limit.window.value}"
