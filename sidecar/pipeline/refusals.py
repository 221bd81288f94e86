"""Refusals as the client receives them: an error of its own API, with the headers of Egret."""

from __future__ import annotations

from sidecar.apis.error_body import error_body, error_headers
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.http import HeaderName, Metadata, Refusal
from sidecar.domain.limits import Limit, Measure
from sidecar.domain.subject import Dialect


def refusal_of(
    error: ClientError,
    *,
    dialect: Dialect,
    headers: tuple[tuple[str, bytes], ...],
    metadata: Metadata,
) -> Refusal:
    """Return the refusal of *error*; *headers* are added to those of the error itself."""
    own = [(HeaderName.CONTENT_TYPE, b"application/json"), *error_headers(dialect, error)]
    if error.retry_after_seconds is not None:
        own.append((HeaderName.RETRY_AFTER, str(error.retry_after_seconds).encode()))
    return Refusal(
        status=error.kind.http_status,
        headers=(*own, *headers),
        body=error_body(dialect, error),
        details=f"egret_{error.kind.value}",
        metadata=metadata,
    )


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
    """Return the error of one request that needs more than its limit ever allows."""
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
