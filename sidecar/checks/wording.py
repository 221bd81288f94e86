"""The errors of limits, which name the limit and its amount."""

from __future__ import annotations

from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.limits import Limit, Measure


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
