from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from sidecar.mutations.timing import Spent, server_timing, timing_headers, timing_metadata

SPENT = Spent(authorize=0.0002, guardrails=0.0123456, egret=1.5)
WRITTEN = "authorize;dur=0.200, guardrails;dur=12.346, egret;dur=1500.000"


def test_server_timing_is_in_milliseconds_to_the_microsecond() -> None:
    """A browser's developer tools show it as it is."""
    assert server_timing(SPENT) == WRITTEN


def test_metadata_holds_microseconds_and_the_finished_header() -> None:
    """Envoy can write the header as it is and log the numbers as numbers."""
    assert timing_metadata(SPENT) == (
        ("server_timing", WRITTEN),
        ("authorize_us", 200),
        ("guardrails_us", 12346),
        ("egret_us", 1_500_000),
    )


def test_the_headers_of_an_answer_name_it_and_time_it() -> None:
    """What a client quotes to support, and how long it took."""
    assert timing_headers(SPENT, request_id="6f1d2c3b", since_start_seconds=0.008) == (
        ("x-egret-request-id", b"6f1d2c3b"),
        ("x-response-time", b"8.000ms"),
        ("server-timing", WRITTEN.encode()),
    )


def test_an_exchange_without_a_check_spent_nothing() -> None:
    """Zeros stay in the header, so that its form never changes."""
    spent = Spent(authorize=0.0, guardrails=0.0, egret=0.0)
    assert server_timing(spent) == "authorize;dur=0.000, guardrails;dur=0.000, egret;dur=0.000"


seconds = st.floats(min_value=0, max_value=3600)


@given(authorize=seconds, guardrails=seconds, egret=seconds)
def test_server_timing_always_parses(authorize: float, guardrails: float, egret: float) -> None:
    """Never an exponent, never more than three places (W3C Server Timing)."""
    spent = Spent(authorize=authorize, guardrails=guardrails, egret=egret)
    metric = r"[a-z]+;dur=\d+\.\d{3}"
    assert re.fullmatch(rf"{metric}, {metric}, {metric}", server_timing(spent))
