from __future__ import annotations

import dataclasses

import pytest

from sidecar.keys.ports import Fence, SharedRecord
from sidecar.keys.shared_cache import ANY_KEY, Fences, Freshness
from tests.support.keys import record_of


def read_at(
    horizon: int, *, timeline: int = 1, key_id: str = "k1", settled: int = 0
) -> SharedRecord:
    """A shared record whose reading saw all that was committed when `horizon - 1` began."""
    return SharedRecord(record_of(key_id), timeline, horizon, settled, read_at=0.0)


def listening(*, since: int = 10, last_change: int | None = None) -> Fences:
    """Fences of a worker that listens, with everything before transaction *since* missed."""
    fences = Fences()
    fences.listening_began()
    fences.resolve(notes=fences.notes, fence=Fence(1, since, last_change))
    return fences


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        pytest.param(read_at(11), Freshness.CURRENT, id="read later"),
        pytest.param(read_at(10), Freshness.UNCERTAIN, id="its snapshot may be from just before"),
        pytest.param(read_at(9), Freshness.UNCERTAIN, id="read earlier"),
        pytest.param(read_at(99, timeline=2), Freshness.UNCERTAIN, id="ids of another timeline"),
    ],
)
def test_a_record_is_current_if_it_was_read_after_the_worker_began_to_listen(
    shared: SharedRecord, expected: Freshness
) -> None:
    """Whatever changed before that may have gone unheard."""
    assert listening().freshness(shared) is expected


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        pytest.param(read_at(21), Freshness.CURRENT, id="read later"),
        pytest.param(read_at(20), Freshness.OUTDATED, id="its snapshot may be from just before"),
        pytest.param(read_at(99, timeline=2), Freshness.OUTDATED, id="ids of another timeline"),
        pytest.param(read_at(11, key_id="k2"), Freshness.CURRENT, id="another key"),
    ],
)
def test_a_record_from_before_a_change_that_was_heard_of_is_outdated(
    shared: SharedRecord, expected: Freshness
) -> None:
    """The fence was asked for after the change was heard of."""
    fences = listening()
    fences.note_change("k1")
    fences.resolve(notes=fences.notes, fence=Fence(1, 20))

    assert fences.freshness(shared) is expected


@pytest.mark.parametrize("scope", ["k1", "team:team_1", "organization:org_1", ANY_KEY])
def test_a_change_counts_before_there_is_a_fence_for_it(scope: str) -> None:
    """Until the database has given one, no record of that scope is believed."""
    fences = listening()

    fences.note_change(scope)

    before = fences.freshness(read_at(10**9))
    fences.resolve(notes=fences.notes, fence=Fence(1, 20))

    assert (before, fences.freshness(read_at(21))) == (Freshness.OUTDATED, Freshness.CURRENT)


def test_a_key_that_changes_again_is_believed_once_there_is_a_fence_for_that() -> None:
    """Though another key's change, which has a fence, came in between."""
    fences = listening()
    for horizon, key_id in enumerate(("k1", "k2", "k1"), start=20):
        fences.note_change(key_id)
        fences.resolve(notes=fences.notes, fence=Fence(1, horizon))

    assert fences.freshness(read_at(22)) is Freshness.OUTDATED
    assert fences.freshness(read_at(23)) is Freshness.CURRENT


def test_a_fence_is_not_for_changes_that_were_heard_of_after_it_was_asked_for() -> None:
    """It may be from before them."""
    fences = listening()
    fences.note_change("k1")
    asked_with = fences.notes
    fences.note_change("k2")

    fences.resolve(notes=asked_with, fence=Fence(1, 20))

    assert fences.freshness(read_at(21)) is Freshness.CURRENT
    assert fences.freshness(read_at(21, key_id="k2")) is Freshness.OUTDATED


def test_a_fence_from_before_the_worker_began_to_listen_does_not_say_what_it_missed() -> None:
    """It was asked for, then the listener was lost and came back, then it was answered."""
    fences = listening()
    fences.note_change("k1")
    asked_with = fences.notes
    fences.listening_ended()
    fences.listening_began()

    fences.resolve(notes=asked_with, fence=Fence(1, 20))

    assert fences.freshness(read_at(21)) is Freshness.UNCERTAIN


def test_nothing_is_current_for_a_worker_that_does_not_listen() -> None:
    """It may still be better than nothing."""
    fences = listening()

    fences.listening_ended()

    assert (fences.freshness(read_at(11)), fences.timeline) == (Freshness.UNCERTAIN, None)


def test_more_changes_than_are_kept_become_one_for_all_keys() -> None:
    """Records that are newer than the forgotten change are believed, older ones are not."""
    fences = Fences(max_floors=2)
    fences.listening_began()
    for number, key_id in enumerate(("k1", "k2", "k3")):
        fences.note_change(key_id)
        fences.resolve(notes=fences.notes, fence=Fence(1, 20 + number))

    beliefs = [fences.freshness(read_at(horizon, key_id="k4")) for horizon in (20, 21)]

    assert beliefs == [Freshness.OUTDATED, Freshness.CURRENT]


def test_a_load_that_began_before_a_change_is_known_as_such() -> None:
    """Its record is not written into the shared cache."""
    fences = listening()
    notes = fences.notes
    before = fences.has_changed_since(notes, record_of("k1"))

    fences.note_change("k1")

    assert (before, fences.has_changed_since(notes, record_of("k1"))) == (False, True)
    assert not fences.has_changed_since(notes, record_of("k2"))


def test_a_load_during_which_the_listener_was_lost_and_came_back_may_have_missed_a_change() -> (
    None
):
    """Though the fence of the new listener is there already."""
    fences = listening()
    notes = fences.notes
    fences.listening_ended()
    fences.listening_began()
    fences.resolve(notes=fences.notes, fence=Fence(1, 20))

    assert fences.has_changed_since(notes, record_of("k1"))


def test_a_moved_key_is_looked_for_under_its_present_owner() -> None:
    """A change of the team that it left does not concern it."""
    fences = listening()
    record = record_of("k1")
    moved = dataclasses.replace(
        record, principal=dataclasses.replace(record.principal, team_id="team_2")
    )

    fences.note_change("team:team_1")

    assert fences.freshness(SharedRecord(moved, 1, 11, 0, read_at=0.0)) is Freshness.CURRENT


@pytest.mark.parametrize(
    ("last_change", "shared", "expected"),
    [
        pytest.param(5, read_at(9, settled=6), Freshness.CURRENT, id="nothing changed since"),
        pytest.param(
            5, read_at(9, settled=5), Freshness.UNCERTAIN, id="the last change was under way"
        ),
        pytest.param(5, read_at(5, settled=4), Freshness.UNCERTAIN, id="read before it"),
        pytest.param(
            5, read_at(9, settled=6, timeline=2), Freshness.UNCERTAIN, id="other timeline"
        ),
        pytest.param(None, read_at(9, settled=6), Freshness.UNCERTAIN, id="nobody knows of any"),
    ],
)
def test_a_worker_that_begins_to_listen_believes_what_is_newer_than_the_last_change(
    last_change: int | None, shared: SharedRecord, expected: Freshness
) -> None:
    """It missed whatever came before, but that was at most the last change."""
    assert listening(since=10, last_change=last_change).freshness(shared) is expected


def test_a_change_that_is_heard_of_outweighs_what_was_said_of_the_last_one() -> None:
    """The fence of a change heard of is behind it; the earlier answer does not know of it."""
    fences = listening(since=10, last_change=5)
    shared = read_at(9, settled=6)
    before = fences.freshness(shared)

    fences.note_change("k1")

    assert (before, fences.freshness(shared)) == (Freshness.CURRENT, Freshness.OUTDATED)
