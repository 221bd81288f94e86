from __future__ import annotations

import re

import yaml
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.metadata import METADATA_KEYS
from sidecar.domain.report import Clocks
from sidecar.pipeline.record import RequestRecord
from sidecar.pipeline.reply import metadata_of, own_headers, server_timing
from tests.support.replies import pairs_of

WRITTEN = "authorize;dur=0.200, guardrails;dur=12.346, egret;dur=1500.000"


def timed_record(*, age_seconds: float) -> tuple[RequestRecord, Clocks]:
    """Return a request that has taken its time, and the clocks of now."""
    times = iter([0.0, 1.5])
    clocks = Clocks(monotonic=lambda: next(times), wall=lambda: 0.0)
    record = RequestRecord(clocks=clocks, started_at=0.0, wall_ns=0)
    record.work()
    record.rest()  # 1.5 seconds later
    record.authorize, record.guardrails = (0.0, 0.0002), (0.0, 0.0123456)
    record.request_id = "6f1d2c3b"
    return record, Clocks(monotonic=lambda: age_seconds, wall=lambda: 0.0)


def test_server_timing_is_in_milliseconds_to_the_microsecond() -> None:
    """A browser's developer tools show it as it is."""
    assert server_timing(0.0002, 0.0123456, 1.5) == WRITTEN


def test_metadata_holds_microseconds_and_the_finished_header() -> None:
    """Envoy can write the header as it is and log the numbers as numbers."""
    record, _ = timed_record(age_seconds=2.0)
    written = pairs_of(metadata_of(record, now=2.0))
    assert {
        name: value for name, value in written.items() if name.endswith(("_timing", "_us"))
    } == {
        "server_timing": WRITTEN,
        "authorize_us": 200,
        "guardrails_us": 12346,
        "egret_us": 1_500_000,
    }


def test_the_headers_of_an_answer_name_it_and_time_it() -> None:
    """What a client quotes to support, and how long it took."""
    assert own_headers(*timed_record(age_seconds=0.008)) == (
        ("x-egret-request-id", b"6f1d2c3b"),
        ("x-response-time", b"8.000ms"),
        ("server-timing", WRITTEN.encode()),
    )


def test_an_exchange_without_a_check_spent_nothing() -> None:
    """Zeros stay in the header, so that its form never changes."""
    timing = server_timing(0.0, 0.0, 0.0)
    assert timing == "authorize;dur=0.000, guardrails;dur=0.000, egret;dur=0.000"


seconds = st.floats(min_value=0, max_value=3600)


@given(authorize=seconds, guardrails=seconds, egret=seconds)
def test_server_timing_always_parses(authorize: float, guardrails: float, egret: float) -> None:
    """Never an exponent, never more than three places (W3C Server Timing)."""
    metric = r"[a-z]+;dur=\d+\.\d{3}"
    timing = server_timing(authorize, guardrails, egret)
    assert re.fullmatch(rf"{metric}, {metric}, {metric}", timing)


def test_envoy_is_configured_to_read_keys_that_are_written() -> None:
    """A key that only the template knows would be an empty header, or a log without a field."""
    parameters = EnvoyParameters(worker_sockets=("/w.sock",), sds_directory="/sds")
    text = render_envoy_config(parameters)
    yaml.safe_load(text)
    named = set(re.findall(r"%DYNAMIC_METADATA\(egret:([a-z0-9_-]+)\)%", text))
    matched = set(re.findall(r"filter: egret, path: \[\{key: ([a-z_]+)\}\]", text))
    headers = {name for name in named if name.startswith(("x-", "anthropic-"))}
    assert named - headers
    assert matched
    assert (named - headers) | matched <= METADATA_KEYS
