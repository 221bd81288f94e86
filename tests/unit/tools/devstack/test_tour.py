from __future__ import annotations

import json
from dataclasses import replace

import pytest
from egret_tools.devstack.tour import CASES, EMAIL, Case, Observation, faults

ALLOWED, REDACTED, STREAMED, UNKNOWN = (
    next(case for case in CASES if case.title == title)
    for title in ("allowed", "personal data redacted", "streamed answer", "unknown key")
)


def as_expected(case: Case) -> Observation:
    """What a case looks like that comes out right."""
    received = None if case.arrives is None else f"… {case.arrives} …"
    return Observation(
        status=case.status,
        verdict=case.verdict,
        server_timing="authorize;dur=0.1, guardrails;dur=0.1, egret;dur=0.2",
        response_time="8ms",
        events=9,
        received=received,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_case_that_comes_out_right_has_no_faults(case: Case) -> None:
    """The tour exits 0 only when this holds for every case."""
    assert faults(case, as_expected(case)) == []


@pytest.mark.parametrize(
    ("case", "change", "fault"),
    [
        pytest.param(ALLOWED, {"status": 500}, "status 500, expected 200", id="status"),
        pytest.param(ALLOWED, {"verdict": ""}, "verdict none, expected allowed", id="verdict"),
        pytest.param(
            ALLOWED,
            {"server_timing": "upstream;dur=1"},
            "no Server-Timing of Egret's",
            id="timing",
        ),
        pytest.param(ALLOWED, {"received": None}, "it did not reach the provider", id="lost"),
        pytest.param(
            ALLOWED, {"received": "{}"}, "the provider got something else", id="other body"
        ),
        pytest.param(UNKNOWN, {"received": "{}"}, "it reached the provider", id="let through"),
        pytest.param(STREAMED, {"events": 1}, "the answer was not streamed", id="not a stream"),
        pytest.param(
            REDACTED,
            {"received": f"Write to [EMAIL_1] about card [X], {EMAIL}"},
            f"'{EMAIL}' reached the provider",
            id="leak",
        ),
    ],
)
def test_what_is_not_as_it_must_be_is_named(
    case: Case, change: dict[str, object], fault: str
) -> None:
    """One fault a line of the tour's last words."""
    assert faults(case, replace(as_expected(case), **change)) == [fault]  # type: ignore[arg-type] # fields by name


def test_bodies_are_what_a_client_of_openais_would_send() -> None:
    """And hold what the case is about."""
    assert json.loads(json.dumps(STREAMED.body))["stream"] is True
    assert EMAIL in json.dumps(REDACTED.body)
