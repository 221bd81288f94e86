from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from sidecar.keys.ports import SharedRecord
from sidecar.storage.valkey import FAILURES, Client, SharedTimes
from sidecar.storage.valkey_keys import SharedRecordCodec, ValkeyKeys
from sidecar.telemetry.key_metrics import SharedOutcome
from tests.support.keys import record_of
from tests.support.made_up_valkey import MadeUpValkey

CODEC = SharedRecordCodec("a secret of thirty-two characters")
TIMES = SharedTimes(keep_seconds=600, operation_seconds=0.01, pause_seconds=0.2)
SHARED = SharedRecord(record_of("AAAAAAAAAAA1"), timeline=1, horizon=2, settled=2, read_at=3.0)


@dataclass
class Bench:
    """The adapter, the server behind it, and what was counted."""

    valkey: MadeUpValkey
    counted: Counter[SharedOutcome]
    keys: ValkeyKeys


@pytest.fixture
def bench() -> Bench:
    valkey, counted = MadeUpValkey(), Counter[SharedOutcome]()

    def count(outcome: SharedOutcome) -> None:
        counted[outcome] += 1

    keys = ValkeyKeys(cast("Client", valkey), CODEC, times=TIMES, count=count)
    return Bench(valkey, counted, keys)


async def test_a_record_is_found_under_its_versioned_name_until_it_is_discarded(
    bench: Bench,
) -> None:
    """With its expiry, so that nothing stays for ever."""
    await bench.keys.put("AAAAAAAAAAA1", SHARED)
    found = await bench.keys.get("AAAAAAAAAAA1")
    names = list(bench.valkey.values)
    await bench.keys.discard("AAAAAAAAAAA1")
    gone = await bench.keys.get("AAAAAAAAAAA1")

    assert (found, names, gone) == (SHARED, ["egret:key:v3:AAAAAAAAAAA1"], None)
    assert bench.counted == {
        SharedOutcome.WRITTEN: 1,
        SharedOutcome.HIT: 1,
        SharedOutcome.DISCARDED: 1,
        SharedOutcome.MISS: 1,
    }


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        pytest.param(b"poison", SharedOutcome.UNAUTHENTIC, id="poison"),
        pytest.param(b"\x04" + bytes(64), SharedOutcome.NEWER, id="newer"),
        pytest.param(7, SharedOutcome.UNREADABLE, id="not even bytes"),
    ],
)
async def test_what_cannot_be_believed_is_counted_and_is_no_record(
    bench: Bench, value: object, outcome: SharedOutcome
) -> None:
    """The database is asked instead."""
    bench.valkey.values["egret:key:v3:AAAAAAAAAAA1"] = value

    found = await bench.keys.get("AAAAAAAAAAA1")

    assert (found, bench.counted) == (None, {outcome: 1})


async def test_a_server_that_fails_is_left_alone_after_a_few_times(bench: Bench) -> None:
    """Then its requests cost nothing, and none of them raises."""
    bench.valkey.trouble = RedisConnectionError("down")

    found = [await bench.keys.get("AAAAAAAAAAA1") for _ in range(10)]

    assert (found, bench.valkey.asked) == ([None] * 10, FAILURES)
    assert bench.counted == {
        SharedOutcome.UNAVAILABLE: FAILURES,
        SharedOutcome.SKIPPED: 10 - FAILURES,
    }


async def test_a_server_that_is_silent_is_waited_for_no_longer_than_its_budget(
    bench: Bench,
) -> None:
    """A black hole is a failure like any other."""
    bench.valkey.is_silent = True

    found = await bench.keys.get("AAAAAAAAAAA1")

    assert (found, bench.counted) == (None, {SharedOutcome.UNAVAILABLE: 1})


async def test_after_a_pause_one_request_finds_out_whether_the_server_is_back(
    bench: Bench,
) -> None:
    """The others do not wait with it; an answer ends the pause for all."""
    bench.valkey.trouble = RedisConnectionError("down")
    for _ in range(FAILURES):
        await bench.keys.get("AAAAAAAAAAA1")
    await asyncio.sleep(0.25)
    bench.valkey.trouble = None
    bench.valkey.is_silent = True

    await asyncio.gather(*(bench.keys.get("AAAAAAAAAAA1") for _ in range(5)))
    asked_while_silent = bench.valkey.asked - FAILURES
    await asyncio.sleep(0.25)
    bench.valkey.is_silent = False
    await bench.keys.get("AAAAAAAAAAA1")
    await bench.keys.get("AAAAAAAAAAA1")

    assert (asked_while_silent, bench.counted[SharedOutcome.MISS]) == (1, 2)
