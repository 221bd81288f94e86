from __future__ import annotations

import pytest
from google.protobuf import json_format, struct_pb2

from sidecar.domain.http import Headers
from sidecar.domain.limits import Level, Limit, LimitStatus, Measure, Window
from sidecar.domain.policy import UncountedAction
from sidecar.domain.report import Clocks
from sidecar.domain.subject import Dialect, Subject
from sidecar.limits.limit_check import RequestCost, limit_checks
from sidecar.pipeline.record import Allowance, RequestRecord
from sidecar.pipeline.reply import (
    foreign_headers,
    limit_headers,
    limit_metadata,
    limit_pairs,
    uncounted_error,
)
from tests.support.routes import route_of

NOW = 1_800_000_000.0
CLOCKS = Clocks(monotonic=lambda: 0.0, wall=lambda: NOW)


def standing(
    measure: Measure, *, amount: int, remaining: int, reset_seconds: float = 1.0
) -> LimitStatus:
    """Return how a limit a minute stands."""
    limit = Limit(
        id=f"{measure}{amount}", level=Level.KEY, measure=measure, window=Window.MINUTE,
        amount=amount,
    )  # fmt: skip
    return LimitStatus(limit, remaining, reset_seconds)


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.AZURE_OPENAI])
def test_an_openai_client_reads_requests_and_tokens(dialect: Dialect) -> None:
    """Of a team's and a key's limit, the one that has least left."""
    headers = limit_headers(
        dialect,
        [
            standing(Measure.REQUESTS, amount=600, remaining=500),
            standing(Measure.REQUESTS, amount=60, remaining=2, reset_seconds=61.2),
            standing(Measure.TOKENS, amount=1_000, remaining=7, reset_seconds=0.25),
            standing(Measure.COST, amount=1, remaining=1),
        ],
        now=NOW,
    )
    assert headers == [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "2"),
        ("x-ratelimit-reset-requests", "1m2s"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "7"),
        ("x-ratelimit-reset-tokens", "250ms"),
    ]


def test_an_anthropic_client_reads_input_and_output_apart() -> None:
    """Times as RFC 3339."""
    headers = limit_headers(
        Dialect.ANTHROPIC,
        [
            standing(Measure.INPUT_TOKENS, amount=50, remaining=5, reset_seconds=1.2),
            standing(Measure.OUTPUT_TOKENS, amount=10, remaining=0),
        ],
        now=NOW,
    )
    assert headers == [
        ("anthropic-ratelimit-input-tokens-limit", "50"),
        ("anthropic-ratelimit-input-tokens-remaining", "5"),
        ("anthropic-ratelimit-input-tokens-reset", "2027-01-15T08:00:02Z"),
        ("anthropic-ratelimit-output-tokens-limit", "10"),
        ("anthropic-ratelimit-output-tokens-remaining", "0"),
        ("anthropic-ratelimit-output-tokens-reset", "2027-01-15T08:00:01Z"),
    ]


def test_an_anthropic_client_reads_requests_and_all_tokens() -> None:
    """Money is in no header: whoever pays need not be whoever asks."""
    headers = limit_headers(
        Dialect.ANTHROPIC,
        [
            standing(Measure.REQUESTS, amount=60, remaining=2),
            standing(Measure.TOKENS, amount=1_000, remaining=7),
            standing(Measure.COST, amount=1, remaining=1),
        ],
        now=NOW,
    )
    assert headers == [
        ("anthropic-ratelimit-requests-limit", "60"),
        ("anthropic-ratelimit-requests-remaining", "2"),
        ("anthropic-ratelimit-requests-reset", "2027-01-15T08:00:01Z"),
        ("anthropic-ratelimit-tokens-limit", "1000"),
        ("anthropic-ratelimit-tokens-remaining", "7"),
        ("anthropic-ratelimit-tokens-reset", "2027-01-15T08:00:01Z"),
    ]


@pytest.mark.parametrize("dialect", [Dialect.GEMINI, Dialect.VERTEX_AI, Dialect.BEDROCK])
def test_an_api_without_such_headers_gets_none(dialect: Dialect) -> None:
    """Its clients go by status and retry-after."""
    assert (
        limit_headers(dialect, [standing(Measure.REQUESTS, amount=1, remaining=0)], now=NOW) == []
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0001, "1ms"),
        (1.0, "1s"),
        (59.5, "1m0s"),
        (3_600.0, "1h0m0s"),
        (90_061.0, "25h1m1s"),
    ],
)
def test_a_reset_is_rounded_up(seconds: float, words: str) -> None:
    """Who comes back too early is refused again."""
    one = standing(Measure.REQUESTS, amount=1, remaining=0, reset_seconds=seconds)
    headers = dict(limit_headers(Dialect.OPENAI, [one], now=NOW))
    assert headers["x-ratelimit-reset-requests"] == words


def test_what_a_provider_says_in_our_place_is_to_go() -> None:
    """Each name once, however often it was sent; no other header, and none that Envoy guards."""
    answer = Headers(
        (
            ("content-type", b"application/json"),
            ("x-ratelimit-remaining-tokens", b"149984"),
            ("x-ratelimit-remaining-tokens", b"1"),
            ("x-request-id", b"req_1"),
            ("anthropic-ratelimit-unified-5h-reset", b"1800000000"),
            ("x-egret-budget", b"95"),
            ("x-ratelimit-\u00e9", b"1"),
            ("retry-after", b"3"),
        )
    )
    assert foreign_headers(answer) == (
        "x-ratelimit-remaining-tokens",
        "anthropic-ratelimit-unified-5h-reset",
        "x-egret-budget",
    )


@pytest.mark.parametrize(("seconds", "forbids"), [(120.0, False), (120.5, True)])
def test_a_wait_of_more_than_two_minutes_is_not_asked_of_a_library(
    seconds: float, *, forbids: bool
) -> None:
    """Answers may have used many times the tokens of a minute; Anthropic's would sleep so long."""
    short = standing(Measure.TOKENS, amount=10, remaining=0, reset_seconds=seconds)
    record = RequestRecord(
        clocks=CLOCKS, started_at=0.0, wall_ns=0, allowance=Allowance(short=short)
    )
    assert (("x-should-retry", "false") in limit_pairs(record, CLOCKS)) is forbids


@pytest.mark.parametrize("backwards", [False, True])
def test_limits_are_metadata_as_envoys_rate_limits_read_an_override(*, backwards: bool) -> None:
    """Of several limits on one measure the one with least left; money in dollars."""
    week = Limit(
        id="w", level=Level.KEY, measure=Measure.OUTPUT_TOKENS, window=Window.WEEK, amount=9
    )
    standings = (
        standing(Measure.TOKENS, amount=600, remaining=500),
        standing(Measure.TOKENS, amount=60, remaining=2, reset_seconds=61.5),
        standing(Measure.COST, amount=2_500_000, remaining=500_000),
        LimitStatus(week, 4, 1.0),
    )
    record = RequestRecord(
        clocks=CLOCKS,
        started_at=0.0,
        wall_ns=0,
        allowance=Allowance(standings[::-1] if backwards else standings),
    )
    fields = limit_metadata(record, CLOCKS, has_headers=False, has_limits=True)
    struct = struct_pb2.Struct()
    struct.MergeFromString(fields)

    assert json_format.MessageToDict(struct) == {
        "limit_tokens": {
            "remaining": 2.0, "requests_per_unit": 60.0, "unit": "MINUTE", "reset_seconds": 61.5,
        },
        "limit_cost": {"amount": 2.5, "remaining": 0.5, "reset_seconds": 1.0},
        "limit_output_tokens": {"remaining": 4.0, "reset_seconds": 1.0},
    }  # fmt: skip


GPT = Subject("gpt-5", streamed=False, parts=())


@pytest.mark.parametrize(
    ("path", "subject", "wanted"),
    [
        ("/v1/chat/completions", GPT, "This model has no price"),
        ("/openai/deployments/gpt/chat/completions?api-version=v1", None, "This model has no"),
        ("/v1/chat/completions", None, "in a body of plain JSON"),
        ("/v1/images/generations", None, "in a body of plain JSON"),
        ("/v1/images/edits", None, "a price of all models (`*`)"),
        ("/v1/audio/transcriptions", None, "a price of all models (`*`)"),
    ],
)
def test_a_client_whose_use_no_budget_can_count_is_told_what_helps(
    path: str, subject: Subject | None, wanted: str
) -> None:
    """No advice that it cannot follow: a recording is never sent as JSON."""
    budget = Limit(id="b", level=Level.KEY, measure=Measure.COST, window=Window.DAY, amount=10**9)
    checks = limit_checks([budget], RequestCost(operation=None, model=None), now=NOW)
    assert isinstance(checks, tuple)
    error = uncounted_error(
        checks, subject, UncountedAction.BLOCK, has_price=False, route=route_of(path)
    )
    assert error is not None
    assert wanted in error.message
