"""Causes, groups, and the forms of the report."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from egret_tools.conformance.case import Case, Protocol
from egret_tools.conformance.causes import OTHER, cause_of, grouped, unserved_modes
from egret_tools.conformance.report import junit, sarif
from egret_tools.conformance.suite import ORDINARY, Result, Run, runs_of


def result(
    *differences: str, name: str = "a case", mode: str = "headers", was_run: bool = True
) -> Result:
    """Return a result over HTTP/1.1."""
    case = Case.model_validate({"name": name, "why": "w"})
    return Result(Run(case, mode, Protocol.HTTP1), differences, 12.0, was_run=was_run)


@pytest.mark.parametrize(
    ("difference", "cause"),
    [
        ("counters: stream_msgs_received is 0, not at least 1", "no-answer"),
        ("counters: failure_mode_allowed is 1, not 0", "bypass"),
        ("counters: message_timeouts is 1, not 0", "timeout"),
        ("counters: spurious_msgs_received is 48, not 0", "unexpected-message"),
        ("counters: rejected_header_mutations is 1, not 0", "rejected-mutation"),
        ("counters: streams_failed is 1, not 0", "failed-stream"),
        ("counters: 3 streams were left open", "open-stream"),
        ("counters: upstream_rq_rx_reset is 1, not 0", "reset"),
        ("upstream: 1 times what followed a request was none", "framing"),
        ("upstream: a body of 3 bytes instead of 2, the same as far as both go", "request-body"),
        ("answer: the body lacks 'x': 'y'", "response-body"),
        ("upstream: 1 requests instead of 0", "not-refused"),
        ("upstream: 0 requests instead of 10", "lost-request"),
        ("answer: status 500 instead of 200: 'x'", "status"),
        ("answer: x-a is 1, not 2", "header"),
        ("counters: Envoy has no streams_failed", OTHER.id),
    ],
)
def test_a_difference_has_a_cause(difference: str, cause: str) -> None:
    """With a sentence that begins with the server where it is the server's."""
    assert cause_of(result(difference)).id == cause


def test_the_most_telling_difference_names_the_cause() -> None:
    """A 500 and a lost request are only what follows."""
    found = result(
        "upstream: 0 requests instead of 1",
        "answer: status 500 instead of 200",
        "counters: spurious_msgs_received is 1, not 0",
    )
    assert cause_of(found).id == "unexpected-message"


def test_results_are_grouped_by_cause_and_unserved_modes_are_left_out() -> None:
    """One sentence for each cause, however many cases it has."""
    results = [
        result("answer: status 500 instead of 200", name="a"),
        result("answer: status 404 instead of 200", name="b"),
        result(name="c"),
        result("upstream: 0 requests instead of 1", mode="duplex"),
        result(mode="duplex", was_run=False),
    ]
    unserved = unserved_modes(results)
    groups = grouped(results, unserved)
    assert unserved == ("duplex",)
    assert [(cause.id, len(found)) for cause, found in groups.items()] == [("status", 2)]


def test_junit_has_a_suite_for_each_mode() -> None:
    """Failures with their cause; cases that were not run are skipped, with the reason."""
    results = [
        result(),
        result("answer: status 500 instead of 200: '\x00'", name="b"),
        result(mode="duplex", was_run=False),
    ]
    text = junit(results, {"duplex": "your server did not answer `request_body` within 5 s"})
    root = ET.fromstring(text)  # noqa: S314 - our own text
    suites = [(one.get("name"), one.get("tests"), one.get("failures")) for one in root]
    assert suites == [("headers", "2", "1"), ("duplex", "1", "0")]
    (failure,) = root.iter("failure")
    assert failure.get("type") == "status"
    assert failure.text == r"answer: status 500 instead of 200: '\x00'"
    (skipped,) = root.iter("skipped")
    assert "your server did not answer `request_body`" in str(skipped.get("message"))


def test_sarif_has_a_result_for_each_difference_and_for_each_unserved_mode() -> None:
    """The mode once, and not its cases."""
    results = [
        result("answer: status 500 instead of 200", name="b"),
        result("upstream: 0 requests instead of 1", mode="duplex"),
        result(mode="duplex", was_run=False),
    ]
    run = sarif(results, {"duplex": None})["runs"][0]
    rules = {one["id"] for one in run["tool"]["driver"]["rules"]}
    assert [one["ruleId"] for one in run["results"]] == ["mode-not-served", "status"]
    assert rules == {"mode-not-served", "status"}
    (place,) = run["results"][1]["locations"][0]["logicalLocations"]
    assert place["fullyQualifiedName"] == "headers/b/http1"


def test_runs_are_in_order_of_modes_with_ordinary_cases_first() -> None:
    """So that a mode which a server does not serve is known after a few of them."""
    cases = [
        Case.model_validate({"name": name, "why": "w", "modes": ["duplex", "headers"]})
        for name in ("another", *ORDINARY)
    ]
    runs = runs_of(cases)
    assert [run.mode for run in runs] == ["headers"] * 8 + ["duplex"] * 8
    assert {run.case.name for run in runs[:6]} == set(ORDINARY)
