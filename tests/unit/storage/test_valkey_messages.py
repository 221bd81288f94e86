from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from sidecar.domain.finding import Finding
from sidecar.domain.subject import UnscannedReason
from sidecar.guardrails.message_table import Entry
from sidecar.storage.valkey import Client, SharedTimes
from sidecar.storage.valkey_messages import (
    GATHER_SECONDS,
    MAX_RECORD_BYTES,
    MAX_WAITING,
    MESSAGE_PREFIX,
    ValkeyMessages,
    derived_keys,
)
from sidecar.telemetry.key_metrics import SharedOutcome
from tests.support.made_up_valkey import MadeUpValkey

TIMES = SharedTimes(keep_seconds=600, operation_seconds=0.05)
FOUND = Finding("pii", "EMAIL", 2, 7, 30, role="user")
ENTRY = Entry(
    parts=3,
    text_bytes=9_000,
    containers=7,
    commas=12,
    unscanned=(UnscannedReason.IMAGE,),
    first_speaker="user",
    last_speaker=None,
    findings=((FOUND,), ()),
    values=(0.0, 0.25),
)
ONE, OTHER = bytes(32), bytes(range(32))


class Bench:
    """The adapter, the server behind it, and what was counted."""

    def __init__(self, valkey: MadeUpValkey, secret: str = "s" * 32, code: bytes = b"v1") -> None:
        self.valkey = valkey
        self.counted = Counter[SharedOutcome]()
        _, tag_key = derived_keys(secret, code)
        self.messages = ValkeyMessages(
            cast("Client", valkey), tag_key, times=TIMES, count=self._count
        )

    def _count(self, outcome: SharedOutcome) -> None:
        self.counted[outcome] += 1

    async def put(self, digest: bytes, entry: Entry) -> None:
        """Share an entry, and let it arrive."""
        self.messages.put(digest, entry)
        await asyncio.sleep(3 * GATHER_SECONDS)


@pytest.fixture
def bench() -> Bench:
    return Bench(MadeUpValkey())


async def test_another_worker_gets_the_entry_that_one_has_shared(bench: Bench) -> None:
    await bench.put(ONE, ENTRY)
    other = Bench(bench.valkey)
    assert await other.messages.last_of([OTHER, ONE, OTHER]) == (1, ENTRY)
    assert list(bench.valkey.values) == [MESSAGE_PREFIX + ONE.hex()]
    assert (bench.counted, other.counted) == (
        {SharedOutcome.WRITTEN: 1},
        {SharedOutcome.HIT: 1},
    )


async def test_a_miss_is_counted_once_for_all_beginnings_of_a_body(bench: Bench) -> None:
    assert await bench.messages.last_of([ONE, OTHER]) is None
    assert bench.counted == {SharedOutcome.MISS: 1}


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(Bench(MadeUpValkey(), secret="t" * 32), id="another secret"),
        pytest.param(Bench(MadeUpValkey(), code=b"v2"), id="another version"),
    ],
)
async def test_an_entry_of_another_fleet_or_version_is_not_believed(
    bench: Bench, reader: Bench
) -> None:
    await bench.put(ONE, ENTRY)
    reader.valkey.values = bench.valkey.values
    assert await reader.messages.last_of([ONE]) is None
    assert reader.counted[SharedOutcome.UNAUTHENTIC] == 1


async def test_an_entry_that_was_moved_to_another_digest_is_not_believed(bench: Bench) -> None:
    """Else the owner of the server could say that an attack was found harmless."""
    await bench.put(ONE, ENTRY)
    (value,) = bench.valkey.values.values()
    bench.valkey.values[MESSAGE_PREFIX + OTHER.hex()] = value
    assert await bench.messages.last_of([OTHER]) is None
    assert bench.counted[SharedOutcome.UNAUTHENTIC] == 1


@pytest.mark.parametrize("value", [b"", b"poison", b"x" * (MAX_RECORD_BYTES + 1), 7, "text"])
async def test_what_is_no_record_is_counted_and_is_no_entry(bench: Bench, value: object) -> None:
    bench.valkey.values[MESSAGE_PREFIX + ONE.hex()] = value
    assert await bench.messages.last_of([ONE]) is None
    assert bench.counted[SharedOutcome.UNAUTHENTIC] == 1


async def test_of_several_the_last_that_can_be_trusted_is_taken(bench: Bench) -> None:
    longer = Entry(4, 9_500, 8, 13, (), "user", "user")
    third = bytes([7]) * 32
    for digest, entry in ((ONE, ENTRY), (OTHER, longer)):
        await bench.put(digest, entry)
    bench.valkey.values[MESSAGE_PREFIX + third.hex()] = b"poison"
    assert await bench.messages.last_of([ONE, OTHER, third]) == (1, longer)


async def test_each_byte_of_a_record_is_authenticated(bench: Bench) -> None:
    await bench.put(ONE, ENTRY)
    name, value = MESSAGE_PREFIX + ONE.hex(), bench.valkey.values[MESSAGE_PREFIX + ONE.hex()]
    for at in range(len(value)):
        changed = bytearray(value)
        changed[at] ^= 1
        bench.valkey.values[name] = bytes(changed)
        assert await bench.messages.last_of([ONE]) is None
    assert bench.counted[SharedOutcome.UNAUTHENTIC] == len(value)


async def test_an_entry_with_very_many_findings_is_not_shared(bench: Bench) -> None:
    many = Entry(3, 9_000, 7, 12, (), "user", "user", findings=((FOUND,) * 500,), values=(0.0,))
    await bench.put(ONE, many)
    assert bench.valkey.values == {}


@pytest.mark.parametrize(
    "trouble", [{"is_silent": True}, {"left_out": 1}, {"trouble": RedisConnectionError("down")}]
)
async def test_without_an_answer_in_time_nothing_is_known(trouble: dict[str, Any]) -> None:
    bench = Bench(MadeUpValkey(**trouble))
    assert await bench.messages.last_of([ONE, OTHER]) is None
    assert bench.counted == {SharedOutcome.UNAVAILABLE: 1}


async def test_records_that_come_together_are_written_together(bench: Bench) -> None:
    for number in range(5):
        bench.messages.put(bytes([number]) * 32, ENTRY)
    await asyncio.sleep(3 * GATHER_SECONDS)
    assert (len(bench.valkey.values), bench.valkey.asked) == (5, 1)
    assert bench.counted == {SharedOutcome.WRITTEN: 5}
    await bench.put(OTHER, ENTRY)
    assert (len(bench.valkey.values), bench.valkey.asked) == (6, 2)


async def test_records_that_cannot_be_written_are_left_out(bench: Bench) -> None:
    bench.valkey.trouble = RedisConnectionError("down")
    await bench.put(ONE, ENTRY)
    bench.valkey.trouble = None
    await bench.put(OTHER, ENTRY)
    assert list(bench.valkey.values) == [MESSAGE_PREFIX + OTHER.hex()]
    assert bench.counted == {SharedOutcome.UNAVAILABLE: 1, SharedOutcome.WRITTEN: 1}


async def test_more_records_than_may_wait_are_left_out(bench: Bench) -> None:
    for number in range(MAX_WAITING + 8):
        bench.messages.put(number.to_bytes(32, "big"), ENTRY)
    await asyncio.sleep(3 * GATHER_SECONDS)
    assert len(bench.valkey.values) == MAX_WAITING


async def test_in_the_end_what_waits_is_given_up(bench: Bench) -> None:
    await bench.messages.aclose()
    bench.messages.put(ONE, ENTRY)
    await bench.messages.aclose()
    await asyncio.sleep(3 * GATHER_SECONDS)
    assert bench.valkey.values == {}


def test_keys_differ_by_secret_version_and_use() -> None:
    keys = {
        key
        for secret in ("s" * 32, "t" * 32)
        for code in (b"v1", b"v2")
        for key in derived_keys(secret, code)
    }
    assert len(keys) == 8
