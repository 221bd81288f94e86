"""The tables of phases."""

from __future__ import annotations

from collections import defaultdict

from sidecar.extproc.phases import ACTIONS, JUDGING, LATE, OWING, TRANSITIONS, UNANSWERED, Phase


def moves() -> dict[Phase, set[Phase]]:
    """Return the phases that each phase can lead to, by a message or an action."""
    after: defaultdict[Phase, set[Phase]] = defaultdict(set)
    for phase, messages in TRANSITIONS.items():
        after[phase].update(*messages.values())
    for phases in ACTIONS.values():
        for phase, leads_to in phases.items():
            after[phase].update(leads_to)
    return after


def reachable(start: Phase) -> set[Phase]:
    """Return *start* and all phases that can follow it."""
    after, found, open_ = moves(), {start}, [start]
    while open_:
        new = after[open_.pop()] - found
        found |= new
        open_ += new
    return found


def test_every_phase_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert reachable(Phase.AWAIT_HEADERS) == set(Phase)


def test_every_phase_can_come_to_the_end_and_nothing_follows_it() -> None:
    assert all(Phase.ENDED in reachable(phase) for phase in Phase)
    assert reachable(Phase.ENDED) == {Phase.ENDED}


def test_every_unanswered_request_can_be_refused() -> None:
    assert set(ACTIONS["refuse"]) >= UNANSWERED


def test_a_wait_for_a_judgement_is_owed_an_answer_and_has_a_time_limit() -> None:
    assert JUDGING <= OWING
    assert set(LATE) >= JUDGING
