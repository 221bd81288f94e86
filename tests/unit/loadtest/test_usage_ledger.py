from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.usage.ledger import ProducedTokens, Recorded, compare

PRODUCED = [ProducedTokens(f"req_{number}", 10 * number, number) for number in range(1, 4)]
RECORDED = [
    Recorded(f"id-{one.provider_request_id}", one.provider_request_id, one.input_tokens,
             one.output_tokens, is_estimated=False, ended="completed")
    for one in PRODUCED
]  # fmt: skip
REFUSED = Recorded("id-refused", None, 0, 0, is_estimated=False, ended="refused")
LOST = Recorded("id-lost", None, 3, 0, is_estimated=True, ended="lost")
ANSWERED = [one.request_id for one in RECORDED]


def test_equal_records_are_found_equal() -> None:
    """Refused ones have no counterpart, estimated ones need not be equal."""
    estimated = replace(RECORDED[2], input_tokens=99, is_estimated=True)
    verdict = compare([*RECORDED[:2], estimated, REFUSED], PRODUCED, answered=ANSWERED)

    assert verdict.faults == ()
    assert verdict.figures == {
        "records": 4,
        "produced": 3,
        "reported": 2,
        "estimated": 1,
        "ended_completed": 3,
        "ended_refused": 1,
        "unnamed": 0,
        "recorded_input": 30,
        "produced_input": 30,
        "recorded_output": 3,
        "produced_output": 3,
        "estimated_input": 99,
        "estimated_input_produced": 30,
        "estimated_output": 3,
        "estimated_output_produced": 3,
    }


def test_a_request_that_was_broken_off_before_its_name_was_known_is_declared() -> None:
    """As many nameless estimates as there are requests that no record names."""
    assert compare([*RECORDED[:2], LOST], PRODUCED, answered=[]).faults == ()
    assert compare(RECORDED[:2], PRODUCED, answered=[]).faults == (
        (
            "1 requests that the provider had are not named by any record,"
            " and only 0 are declared estimated without a name"
        ),
    )


@pytest.mark.parametrize(
    ("recorded", "fault"),
    [
        ([*RECORDED[:2], LOST], "1 requests were answered and not recorded: id-req_3"),
        (
            [*RECORDED, replace(RECORDED[0], request_id="id-again")],
            "1 requests are recorded twice: req_1",
        ),
        (
            [*RECORDED, replace(RECORDED[0], request_id="id-4", provider_request_id="req_4",
                                input_tokens=0, output_tokens=0)],
            "1 records name a request the provider never had: id-4",
        ),
        (
            [*RECORDED[:2], replace(RECORDED[2], output_tokens=4)],
            "1 records differ from the answers of the provider: id-req_3",
        ),
    ],
)  # fmt: skip
def test_whatever_does_not_add_up_is_named(recorded: list[Recorded], fault: str) -> None:
    """By the ids to look for."""
    assert fault in compare(recorded, PRODUCED, answered=ANSWERED).faults
