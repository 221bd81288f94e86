from __future__ import annotations

import pytest

from sidecar.domain.finding import Finding
from sidecar.guardrails.local_scan import LocalScan
from sidecar.guardrails.message_table import (
    MAX_KEYS,
    MAX_TAILS,
    SECRET_BYTES,
    Entry,
    MessageTable,
)
from sidecar.guardrails.registry import core_database
from tests.support.guardrails import effective, policy
from tests.support.routes import route_of

SCAN = effective(policy("  - {name: pii, type: pii}\n")).local


def entry(findings: int = 0) -> Entry:
    found = tuple(Finding("pii", "EMAIL", at, 0, 9) for at in range(findings))
    return Entry(1, 100, 2, 3, (), "user", "user", findings=(found,) if found else ())


def table(max_bytes: int) -> MessageTable:
    return MessageTable(max_bytes=max_bytes, secret=bytes(SECRET_BYTES))


def test_the_entry_that_was_not_used_for_longest_is_dropped_first() -> None:
    known = table(3 * entry().size)
    for name in (b"a", b"b", b"c"):
        known.put(name, entry())
    known.get(b"a")
    known.put(b"d", entry())
    assert [known.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]
    assert known.evictions == 1


def test_an_entry_that_is_kept_again_counts_once() -> None:
    known = table(1 << 20)
    known.put(b"a", entry(5))
    known.put(b"a", entry())
    assert known.bytes == entry().size


def test_an_entry_larger_than_the_table_is_not_kept() -> None:
    known = table(entry().size)
    known.put(b"a", entry(50))
    assert known.get(b"a") is None
    assert known.bytes == 0


def test_keys_differ_by_owner_guardrails_route_field_and_secret() -> None:
    other = effective(policy("  - {name: pii, type: pii, action: flag}\n")).local
    keys = {
        known.key(owner, scan, route, field)
        for known in (table(1), MessageTable(max_bytes=1, secret=b"x" * SECRET_BYTES))
        for owner in ("one", "two")
        for scan in (SCAN, other)
        for route in map(route_of, ("/v1/chat/completions", "/v1/responses", "/v1/messages"))
        for field in ("messages", "tools")
    }
    assert len(keys) == 48


def test_equal_guardrails_know_the_same_messages() -> None:
    core = core_database()
    again = LocalScan(SCAN.guardrails, database=core, ids=core.ids)
    assert again is not SCAN
    assert again.digest == SCAN.digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("type: pii", "type: pii, action: flag"),
        ("type: pii", "type: pii, mode: shadow"),
        ("type: pii", "type: pii, regions: [DE]"),
        ("type: language, allowed: [en]", "type: toxicity, allowed: [en]"),
        ("type: max_input, max_characters: 9", "type: max_input, max_characters: 8"),
    ],
)
def test_guardrails_that_may_find_something_else_know_other_messages(one: str, other: str) -> None:
    """Settings of two types may have the same fields."""
    digests = [
        effective(policy(f"  - {{name: it, {settings}}}\n")).local.digest
        for settings in (one, other)
    ]
    assert digests[0] != digests[1]


def test_no_two_tables_have_the_same_stand_in() -> None:
    """A worker that knows the secret of others does not know their marks."""
    assert table(1).mark != table(1).mark


def test_of_the_ends_of_lists_those_kept_for_longest_are_forgotten_first() -> None:
    known = table(1 << 20)
    for number in (*range(MAX_TAILS), 0, MAX_TAILS):
        known.put_beginning(b"a", entry(), number)
    assert [*known.tails] == [*range(2, MAX_TAILS), 0, MAX_TAILS]


def test_as_many_entries_are_dropped_as_take_the_room_of_one() -> None:
    known = table(3 * entry().size)
    for name in (b"a", b"b", b"c"):
        known.put(name, entry())
    known.put(b"d", entry(5))
    assert known.bytes == entry(5).size
    assert known.evictions == 3


def test_keys_are_forgotten_before_they_take_much_memory_and_are_the_same_again() -> None:
    known, route = table(1), route_of()
    first = known.key("0", SCAN, route, "messages")
    for number in range(MAX_KEYS):
        known.key(str(number + 1), SCAN, route, "messages")
    assert len(known._keys) == 1
    assert known.key("0", SCAN, route, "messages") == first
