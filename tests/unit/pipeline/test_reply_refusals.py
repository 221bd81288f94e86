from __future__ import annotations

import json

import pytest

from sidecar.apis.error_body import error_body, error_headers
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.http import Refusal
from sidecar.domain.limits import Level, Limit, LimitStatus, Measure, Window
from sidecar.domain.subject import Dialect
from sidecar.extproc.codec import metadata_fields
from sidecar.pipeline.reply import limit_error, refusal_of

STATUS = {
    ErrorKind.MISSING_API_KEY: 401,
    ErrorKind.INVALID_API_KEY: 401,
    ErrorKind.CONFLICTING_CREDENTIALS: 401,
    ErrorKind.CREDENTIAL_IN_QUERY: 401,
    ErrorKind.EXPIRED_API_KEY: 401,
    ErrorKind.REVOKED_API_KEY: 401,
    ErrorKind.DISABLED_API_KEY: 401,
    ErrorKind.MODEL_NOT_ALLOWED: 403,
    ErrorKind.OPERATION_NOT_ALLOWED: 403,
    ErrorKind.SOURCE_NOT_ALLOWED: 403,
    ErrorKind.UNSCANNED_CONTENT: 403,
    ErrorKind.UNKNOWN_URL: 404,
    ErrorKind.CONTENT_BLOCKED: 400,
    ErrorKind.INVALID_BODY: 400,
    ErrorKind.BODY_TOO_LARGE: 413,
    ErrorKind.BODY_TIMEOUT: 408,
    ErrorKind.REQUEST_TRAILERS: 400,
    ErrorKind.OUTPUT_LIMIT_EXCEEDED: 400,
    ErrorKind.UNCOUNTED_USAGE: 403,
    ErrorKind.RATE_LIMIT_EXCEEDED: 429,
    ErrorKind.BUDGET_EXHAUSTED: 429,
    ErrorKind.GUARDRAIL_UNAVAILABLE: 503,
    ErrorKind.AUTHORIZATION_UNAVAILABLE: 503,
    ErrorKind.OVERLOADED: 503,
    ErrorKind.UNSUPPORTED_PROCESSING_MODE: 500,
    ErrorKind.INTERNAL_ERROR: 500,
}
TIMING = (("x-response-time", b"1.000ms"),)
METADATA = metadata_fields([("verdict", "refused")])
JSON = ("content-type", b"application/json")


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_each_kind_of_error_is_refused_in_the_clients_dialect(
    kind: ErrorKind, dialect: Dialect
) -> None:
    """Status by kind, body by dialect, details without spaces or anything the client sent."""
    error = ClientError(kind, "Not this one.", param="model")
    refusal = refusal_of(error, dialect=dialect, headers=TIMING, metadata=METADATA)
    assert refusal == Refusal(
        status=STATUS[kind],
        headers=(JSON, *error_headers(dialect, error), *TIMING),
        body=error_body(dialect, error),
        details=f"egret_{kind.value}",
        metadata=METADATA,
    )
    told = json.loads(refusal.body)
    assert told.get("error", told)["message"] == "Not this one."
    assert refusal.details.replace("_", "").isalpha()


@pytest.mark.parametrize("kind", ErrorKind, ids=lambda kind: kind.value)
def test_no_refusal_looks_like_success(kind: ErrorKind) -> None:
    """Envoy turns a status below 200 into 200."""
    assert 400 <= kind.spec.status <= 599


def test_a_refusal_that_may_be_tried_again_says_when() -> None:
    """In whole seconds (RFC 9110 section 10.2.3), before the headers that were added."""
    error = ClientError(ErrorKind.GUARDRAIL_UNAVAILABLE, "Later.", retry_after_seconds=30)
    refusal = refusal_of(error, dialect=Dialect.OPENAI, headers=TIMING, metadata=b"")
    assert refusal.headers == (JSON, ("retry-after", b"30"), *TIMING)


def test_a_wait_of_zero_seconds_is_a_wait() -> None:
    """Zero is not the same as saying nothing."""
    error = ClientError(ErrorKind.GUARDRAIL_UNAVAILABLE, "Now.", retry_after_seconds=0)
    refusal = refusal_of(error, dialect=Dialect.ANTHROPIC, headers=(), metadata=b"")
    assert refusal.headers == (JSON, ("retry-after", b"0"))


def test_a_limit_of_requests_at_a_time_is_named_as_such() -> None:
    """It has no window."""
    slots = Limit(
        id="l", level=Level.TEAM, measure=Measure.CONCURRENT, window=Window.ONCE, amount=3
    )
    error = limit_error(LimitStatus(slots, 0, 1.2))
    assert error.message == (
        "The limit of this team is reached: 3 requests at a time. Try again in 2 s."
    )
    assert error.retry_after_seconds == 2


@pytest.mark.parametrize(
    ("measure", "window", "burst", "words"),
    [
        (Measure.REQUESTS, Window.MINUTE, None, "20 requests a minute, 2 at once"),
        (Measure.REQUESTS, Window.SECOND, 40, "20 requests a second, 40 at once"),
        (Measure.REQUESTS, Window.MINUTE, 20, "20 requests a minute"),
        (Measure.REQUESTS, Window.DAY, None, "20 requests a day"),
        (Measure.TOKENS, Window.MINUTE, None, "20 tokens a minute"),
    ],
)
def test_a_refusal_names_the_burst_of_a_sliding_limit(
    measure: Measure, window: Window, burst: int | None, words: str
) -> None:
    """The third request of a minute may be too many for a limit of twenty."""
    limit = Limit(id="l", level=Level.KEY, measure=measure, window=window, amount=20, burst=burst)
    message = limit_error(LimitStatus(limit, 0, 2.0)).message
    assert message == f"The limit of this key is reached: {words}. Try again in 2 s."


def test_a_refusal_ends_with_the_operators_line_and_the_request_id() -> None:
    """So that a developer can ask, and support can find the line in the log."""
    refusal = refusal_of(
        ClientError(ErrorKind.INVALID_BODY, "No."),
        dialect=Dialect.OPENAI,
        headers=TIMING,
        metadata=b"",
        request_id="req-1",
        contact="Ask in #ai-platform.",
    )
    message = json.loads(refusal.body)["error"]["message"]
    assert message == "No. Ask in #ai-platform. Request id: req-1."
    assert ("x-request-id", b"req-1") in refusal.headers
