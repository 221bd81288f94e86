from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest
from egret_tools.conformance.case import Case
from egret_tools.conformance.compare import ALWAYS, NEW_COUNTERS, Seen, differences
from egret_tools.conformance.envoy_setup import is_busy, since
from egret_tools.conformance.upstream import Answering, Arrived
from egret_tools.conformance.wire import HUNG_UP, Outgoing, Received

SENT: Final = Outgoing(method="POST", path="/v1", headers=(), pieces=(b"ab", b"c"), length=3)
ARRIVED: Final = Arrived("POST", "/v1", ((b"content-length", b"3"),), b"abc", is_whole=True)
ANSWERING: Final = Answering(pieces=(b"fine",), length=4)
RECEIVED: Final = Received(200, ((b"x-a", b"1"),), b"fine")
COUNTED: Final = {
    name: bounds.least for name, bounds in ALWAYS.items()
}  # what is never counted is 0, what must be is 1
GOOD: Final = Seen(
    sent=(SENT,),
    answering=ANSWERING,
    received=(RECEIVED,),
    arrived=(ARRIVED,),
    unreadable=0,
    counted=COUNTED,
)


def case(**expect: Any) -> Case:
    """Return a case that expects so."""
    return Case.model_validate({"name": "n", "why": "w", "expect": expect})


def test_what_passes_unchanged_conforms() -> None:
    """The ordinary case."""
    assert differences(case(), GOOD) == []


def test_requests_are_told_apart_by_their_bodies() -> None:
    """They may arrive in another order than they were sent in."""
    second = replace(SENT, pieces=(b"xyz",))
    seen = replace(
        GOOD,
        sent=(SENT, second),
        received=(RECEIVED, RECEIVED),
        arrived=(replace(ARRIVED, body=b"xyz"), ARRIVED),
        counted={name: 2 * count for name, count in COUNTED.items()},
    )
    assert differences(case(), seen) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arrived": ()}, "upstream: 0 requests instead of 1"),
        ({"arrived": (ARRIVED, ARRIVED)}, "upstream: 2 requests instead of 1"),
        ({"unreadable": 1}, "upstream: 1 times what followed a request was none"),
        ({"arrived": (replace(ARRIVED, method="GET"),)}, "upstream: method GET instead of POST"),
        ({"arrived": (replace(ARRIVED, path="/"),)}, "upstream: path / instead of /v1"),
        ({"arrived": (replace(ARRIVED, is_whole=False),)}, "upstream: a request that did not end"),
        (
            {
                "arrived": (
                    replace(
                        ARRIVED,
                        headers=(*ARRIVED.headers, (b"transfer-encoding", b"chunked")),
                    ),
                )
            },
            "upstream: both content-length and transfer-encoding",
        ),
        (
            {"arrived": (replace(ARRIVED, body=b"abX"),)},
            "upstream: a body of 3 bytes instead of 3, different from byte 2 on: 'X'",
        ),
        (
            {"arrived": (replace(ARRIVED, body=b"ab"),)},
            "upstream: a body of 2 bytes instead of 3, the same as far as both go",
        ),
        (
            {"received": (replace(RECEIVED, is_whole=False),)},
            "answer: broken off after status 200",
        ),
        (
            {"received": (replace(RECEIVED, status=500),)},
            "answer: status 500 instead of 200: 'fine'",
        ),
        (
            {"received": (replace(RECEIVED, body=b""),)},
            "answer: a body of 0 bytes instead of 4, the same as far as both go",
        ),
        (
            {"counted": {**COUNTED, "stream_msgs_received": 0}},
            "counters: stream_msgs_received is 0, not at least 1",
        ),
        (
            {"counted": {**COUNTED, "failure_mode_allowed": 1}},
            "counters: failure_mode_allowed is 1, not 0",
        ),
        (
            {"counted": {**COUNTED, "upstream_rq_active": 2}},
            "counters: 2 streams were left open",
        ),
        (
            {"counted": {k: v for k, v in COUNTED.items() if k != "streams_failed"}},
            "counters: Envoy has no streams_failed",
        ),
    ],
)
def test_whatever_differs_is_said(change: dict[str, Any], said: str) -> None:
    """On each side, with what was expected."""
    assert differences(case(), replace(GOOD, **change)) == [said]


def test_a_counter_that_older_envoys_lack_is_not_missed() -> None:
    """Envoy 1.36 does not count refusals; the answer to the client is compared in any case."""
    counted = {name: count for name, count in COUNTED.items() if name not in NEW_COUNTERS}
    expects = case(counters={"immediate_responses_sent": 0})
    assert differences(expects, replace(GOOD, counted=counted)) == []


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"upstream": {"absent": ["content-length"]}}, "upstream: content-length is there"),
        ({"answer": {"headers": {"x-a": "2"}}}, "answer: x-a is 1, not 2"),
        ({"answer": {"headers": {"x-b": ".*"}}}, "answer: x-b is absent, not .*"),
        ({"answer": {"values": {"x-a": ["1", "2"]}}}, "answer: x-a is 1, not 1, 2"),
        ({"answer": {"contains": ["bad"]}}, "answer: the body lacks 'bad': 'fine'"),
        ({"upstream": {"lacks": ["ab"]}}, "upstream: the body holds 'ab'"),
        ({"counters": {"streams_started": {"min": 2, "max": 3}}},
         "counters: streams_started is 1, not 2 to 3"),
    ],
)  # fmt: skip
def test_what_a_case_adds_is_held_as_well(expect: dict[str, Any], said: str) -> None:
    """Headers by expression, parts of a body, counters of its own."""
    assert differences(case(**expect), GOOD) == [said]


def test_values_that_were_joined_on_their_way_are_the_same_list() -> None:
    """Envoy may write two headers of one name as one (RFC 9110 section 5.3)."""
    received = replace(RECEIVED, headers=((b"x-a", b"1, 2"), (b"x-a", b"3")))
    expects = case(answer={"values": {"x-a": ["1", "2", "3"]}})
    assert differences(expects, replace(GOOD, received=(received,))) == []


@pytest.mark.parametrize("received", [HUNG_UP, replace(RECEIVED, status=413, is_whole=False)])
def test_a_client_that_left_has_no_answer_to_compare(received: Received) -> None:
    """Neither has one that may be broken off."""
    seen = replace(GOOD, received=(received,), arrived=())
    expects = case(upstream={"requests": 0}, answer={"status": 413, "may_break_off": True})
    assert differences(expects, seen) == []


def test_counters_are_those_since_the_case_began() -> None:
    """But for open streams, of which each is one too many."""
    before, now = {"a": 3, "upstream_rq_active": 1}, {"a": 5, "b": 1, "upstream_rq_active": 1}
    assert since(before, now) == {"a": 2, "b": 1, "upstream_rq_active": 1}


LEAVES = {"requests": {"max": 1}, "may_break_off": True}


@pytest.mark.parametrize(
    "arrived",
    [(), (replace(ARRIVED, body=b"ab", is_whole=False),), (replace(ARRIVED, is_whole=False),)],
    ids=["none", "a part", "all but the end"],
)
def test_a_client_that_leaves_may_have_opened_a_request(arrived: tuple[Arrived, ...]) -> None:
    """Where a server passes headers on at once; it depends on the moment."""
    seen = replace(GOOD, received=(HUNG_UP,), arrived=arrived)
    assert differences(case(upstream=LEAVES), seen) == []


def test_a_broken_off_request_is_still_the_one_that_was_sent() -> None:
    """Another body, and another request, are faults in any mode."""
    other = replace(ARRIVED, body=b"aX", is_whole=False)
    seen = replace(GOOD, received=(HUNG_UP,), arrived=(other,))
    (said,) = differences(case(upstream=LEAVES), seen)
    assert said == "upstream: a body of 2 bytes instead of 2, different from byte 1 on: 'X'"
    twice = replace(seen, arrived=(other, other))
    (said,) = differences(case(upstream=LEAVES), twice)
    assert said == "upstream: 2 requests instead of 0 to 1"


@pytest.mark.parametrize(
    "level", ["upstream_rq_active", "downstream_rq_active", "upstream.upstream_rq_active"]
)
def test_a_case_is_over_when_envoy_has_no_request_of_it(level: str) -> None:
    """Otherwise a late effect would count for the next case."""
    assert is_busy({level: 1})
    assert not is_busy({level: 0, "streams_started": 3})
