"""Usage from the disk to a real database, whatever fails on the way."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from msgspec.structs import replace

from sidecar.domain.usage import JudgedRequest, UsageRecord
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import open_pool
from sidecar.storage.spool import MAX_FRESH, UsageSpool
from sidecar.storage.spool_files import (
    SegmentKind,
    SpoolError,
    SpoolFullError,
    SpoolLimits,
    frame,
)
from sidecar.storage.usage_delivery import UsageDelivery
from sidecar.storage.usage_store import PostgresUsage
from sidecar.usage.records import NotKeptError
from sidecar.worker.usage import PriceCache
from tests.support.postgres import Database
from tests.support.usage import MOMENT, judged, record

SETTLE_SECONDS = 100.0
ROOMY = SpoolLimits(max_bytes=10_000_000)


class Counts:
    """What was counted on the way."""

    def __init__(self) -> None:
        self.new = 0
        self.gone: Counter[str] = Counter()
        self.refusals = 0
        self.size = 0
        self.oldest = 0.0

    def stored(self, records: Sequence[UsageRecord], *, added: int) -> None:
        """Add up what was new."""
        del records
        self.new += added

    def lost(self, reason: str, count: int = 1) -> None:
        """Count by reason."""
        self.gone[reason] += count

    def refused(self, count: int) -> None:
        """Add them up."""
        self.refusals += count

    def spool_holds(self, size: int, *, oldest_seconds: float) -> None:
        """Keep the last."""
        self.size, self.oldest = size, oldest_seconds


class Worker:
    """The part of a worker that usage goes through, at a time of the test's own."""

    def __init__(
        self, spool: UsageSpool, counts: Counts, store: PostgresUsage, wall: list[float]
    ) -> None:
        self.spool = spool
        self.counts = counts
        self.wall = wall
        self.delivery = UsageDelivery(
            spool,
            store,
            counts,
            prices=PriceCache(store.load_prices, clock=lambda: wall[0]).fresh,
            settle_seconds=SETTLE_SECONDS,
            wall=lambda: wall[0],
        )

    def let_notes_grow_old(self) -> None:
        """Let the time pass after which a request without an end is looked up."""
        for segment in self.spool.segments(SegmentKind.JUDGED):
            segment.started_at = self.wall[0]
        self.wall[0] += SETTLE_SECONDS * 2


@asynccontextmanager
async def worker(
    root: Path,
    settings: PostgresSettings,
    *,
    name: str = "worker-0",
    limits: SpoolLimits = ROOMY,
) -> AsyncIterator[Worker]:
    counts = Counts()
    spool = await UsageSpool.open(
        root, instance=name, limits=limits, on_note_lost=lambda: counts.lost("note")
    )
    async with open_pool(settings) as pool:
        store = PostgresUsage(pool, settings, batch_seconds=settings.query_seconds)
        running = Worker(spool, counts, store, [MOMENT.timestamp()])
        try:
            yield running
        finally:
            await spool.aclose()


async def stored(database: Database) -> list[tuple[str, str, int]]:
    async with database.connect() as connection:
        rows = await connection.fetch(
            "SELECT request_id, ended, input_tokens FROM usage ORDER BY 1"
        )
    return [tuple(row) for row in rows]


@asynccontextmanager
async def away(database: Database) -> AsyncIterator[None]:
    """Take the database away, as far as its users can tell."""
    async with database.server.connect() as connection:
        await connection.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
        await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            database.name,
        )
        try:
            yield
        finally:
            await connection.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true')


def spoil_the_end(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


def make_unreadable(root: Path) -> dict[str, bytes]:
    """Put a folder in the place of each file of a spool, and return the files by their kind."""
    left: dict[str, bytes] = {}
    for path in root.glob("*/*.spool"):
        left[path.name.partition("-")[0]] = path.read_bytes()
        path.unlink()
        path.mkdir()
    return left


def repair(root: Path, left: dict[str, bytes]) -> None:
    for path in root.glob("*/*.spool"):
        path.rmdir()
        path.write_bytes(left[path.name.partition("-")[0]])


def files(spool: UsageSpool, kind: SegmentKind) -> int:
    return len(spool.segments(kind))


async def test_what_is_kept_is_delivered_and_its_file_goes(
    database: Database, tmp_path: Path
) -> None:
    """More than one batch; the disk is empty afterwards."""
    async with worker(tmp_path, database.settings) as one:
        await one.delivery.keep([record(number) for number in range(1200)])
        await one.delivery.deliver()

        assert (one.counts.new, one.counts.size) == (1200, 0)
        assert files(one.spool, SegmentKind.ENDED) == 0
    assert len(await stored(database)) == 1200


async def test_a_database_that_is_away_loses_nothing(database: Database, tmp_path: Path) -> None:
    """It waits on the disk, and its age is shown."""
    async with worker(tmp_path, database.settings) as one:
        async with away(database):
            await one.delivery.keep([record(1)])
            await one.delivery.deliver()
            assert one.counts.new == 0
            assert one.counts.size > 0
        await one.delivery.keep([record(2)])
        await one.delivery.deliver()

    assert await stored(database) == [
        ("request-1", "completed", 100),
        ("request-2", "completed", 100),
    ]


async def test_what_a_worker_left_behind_is_delivered_by_another(
    database: Database, tmp_path: Path
) -> None:
    """The next one to start, or one that lives and looks from time to time."""
    async with worker(tmp_path, database.settings, name="worker-0") as first:
        await first.delivery.keep([record(1), record(2)])
    async with worker(tmp_path, database.settings, name="worker-1") as second:
        async with worker(tmp_path, database.settings, name="worker-0") as third:
            await third.delivery.keep([record(3)])
            await second.delivery.deliver()
            assert len(await stored(database)) == 2
        second.wall[0] += 60
        await second.delivery.deliver()

        assert len(await stored(database)) == 3
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - a look at a folder


async def test_a_folder_that_cannot_be_adopted_stops_no_worker(
    database: Database, tmp_path: Path
) -> None:
    """It is logged once; the files of others are delivered."""
    async with worker(tmp_path, database.settings, name="worker-0") as gone:
        await gone.delivery.keep([record(1)])
    broken = tmp_path / "worker-00-broken"
    broken.mkdir()
    (broken / "notes.map").symlink_to("/proc/self/mem")
    with structlog.testing.capture_logs() as lines:
        async with worker(tmp_path, database.settings, name="worker-1") as one:
            for _ in range(2):
                one.wall[0] += 60
                await one.delivery.deliver()

    assert lines == [
        {"event": "usage.spool_adopted", "folders": 1, "log_level": "info"},
        {
            "event": "usage.spool_not_adopted",
            "folder": broken.name,
            "reason": "unreadable",
            "log_level": "warning",
        },
    ]
    assert await stored(database) == [("request-1", "completed", 100)]


async def test_a_clock_that_is_set_back_holds_nothing_up(
    database: Database, tmp_path: Path
) -> None:
    """Neither what a dead worker left behind nor what is to be asked about notes."""
    async with worker(tmp_path, database.settings, name="worker-1") as one:
        await note(one, judged(1))
        await one.delivery.deliver()
        async with worker(tmp_path, database.settings, name="worker-0") as gone:
            await gone.delivery.keep([record(1)])
        one.wall[0] -= 3600
        await one.delivery.deliver()

        assert await stored(database) == [("request-1", "completed", 100)]
        assert (files(one.spool, SegmentKind.JUDGED), one.counts.size) == (0, 0)


async def test_records_that_were_delivered_before_a_crash_count_once(
    database: Database, tmp_path: Path
) -> None:
    """Their file is still there, since only what came after it was removed."""
    async with worker(tmp_path, database.settings) as one:
        await one.delivery.keep([record(1), record(2)])
        (segment,) = one.spool.segments(SegmentKind.ENDED)
        copy = segment.path.read_bytes()
        await one.delivery.deliver()
    gone = tmp_path / "worker-0-gone"
    gone.mkdir()
    (gone / "ended-00000001.spool").write_bytes(copy)
    async with worker(tmp_path, database.settings) as two:
        await two.delivery.deliver()

        assert two.counts.new == 0
    assert len(await stored(database)) == 2


async def test_a_damaged_tail_is_cut_and_counted(database: Database, tmp_path: Path) -> None:
    """Of a worker that is gone; what stands before it is delivered, and the file goes."""
    async with worker(tmp_path, database.settings, name="worker-0") as gone:
        await gone.delivery.keep([record(1)])
        await gone.delivery.keep([record(2)])
        (segment,) = gone.spool.segments(SegmentKind.ENDED)
        await gone.spool.seal(SegmentKind.ENDED)
        await gone.spool.run(lambda: spoil_the_end(segment.path))
    async with worker(tmp_path, database.settings, name="worker-1") as one:
        await one.delivery.deliver()

        assert (one.counts.new, one.counts.gone) == (1, {"damaged": 1})
        assert files(one.spool, SegmentKind.ENDED) == 0
    assert await stored(database) == [("request-1", "completed", 100)]


async def test_a_file_that_cannot_be_read_holds_up_no_other(
    database: Database, tmp_path: Path
) -> None:
    """It is logged and counted once, stays on the disk, and is tried by the next worker."""
    async with worker(tmp_path, database.settings, name="worker-0") as gone:
        await gone.delivery.keep([record(1)])
        await note(gone, judged(2))
    left = make_unreadable(tmp_path)
    with structlog.testing.capture_logs() as lines:
        async with worker(tmp_path, database.settings, name="worker-1") as one:
            await one.delivery.keep([record(3)])
            one.let_notes_grow_old()
            for _ in range(3):
                await one.delivery.deliver()
            assert await stored(database) == [("request-3", "completed", 100)]
            assert (one.counts.gone, one.counts.size) == ({"damaged": 2}, 0)
    damaged = [line for line in lines if line["event"] == "usage.spool_damaged"]
    assert [line["reason"] for line in damaged] == ["Is a directory"] * 2
    assert not any(line["event"] == "usage.not_delivered" for line in lines)

    repair(tmp_path, left)
    async with worker(tmp_path, database.settings, name="worker-2") as two:
        await two.delivery.deliver()
    assert [row[0] for row in await stored(database)] == ["request-1", "request-3"]


async def test_what_a_worker_still_has_in_memory_does_not_need_its_file(
    database: Database, tmp_path: Path
) -> None:
    """A disk that spoils what was written takes nothing from a worker that lives."""
    async with worker(tmp_path, database.settings) as one:
        await one.delivery.keep([record(1), record(2)])
        (segment,) = one.spool.segments(SegmentKind.ENDED)
        await one.spool.run(lambda: spoil_the_end(segment.path))
        await one.delivery.deliver()

        assert (one.counts.new, one.counts.gone, one.counts.size) == (2, {}, 0)


async def test_more_than_memory_holds_is_read_from_the_disk(
    database: Database, tmp_path: Path
) -> None:
    """While the database was away; each of them once, and new ones after them."""
    held = MAX_FRESH + 700
    async with worker(tmp_path, database.settings) as one:
        async with away(database):
            for start in range(0, held, 1900):
                numbers = range(start, min(start + 1900, held))
                await one.delivery.keep([record(number) for number in numbers])
            await one.delivery.deliver()
        await one.delivery.keep([record(held)])
        await one.delivery.deliver()

        assert (one.counts.new, one.counts.gone, one.counts.size) == (held + 1, {}, 0)
    assert len(await stored(database)) == held + 1


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x81\xa1a\x01", id="another version"),
        pytest.param(b"\x81\xaeresponse_model\xa2\xff\xfe", id="not UTF-8"),
    ],
)
async def test_a_record_of_another_version_is_counted_and_left_out(
    database: Database, tmp_path: Path, payload: bytes
) -> None:
    """Sound bytes, and yet no record of ours."""
    async with worker(tmp_path, database.settings) as one:
        await one.spool.run(lambda: one.spool._folder.append(SegmentKind.ENDED, [frame(payload)]))
        await one.delivery.keep([record(1)])
        await one.delivery.deliver()

        assert (one.counts.new, one.counts.gone) == (1, {"unreadable": 1})


async def test_a_record_that_the_database_refuses_does_not_hold_up_the_rest(
    database: Database, tmp_path: Path
) -> None:
    """It is counted and logged by its id; all others arrive."""
    poisoned = replace(record(2), status=1_000_000)
    async with worker(tmp_path, database.settings) as one:
        await one.delivery.keep([record(1), poisoned, record(3)])
        await one.delivery.deliver()

        assert one.counts.gone == {"rejected": 1}
    assert [row[0] for row in await stored(database)] == ["request-1", "request-3"]


async def test_a_full_disk_sends_records_straight_to_the_database(
    database: Database, tmp_path: Path
) -> None:
    """They are acknowledged when they are there."""
    async with worker(tmp_path, database.settings, limits=SpoolLimits(max_bytes=20)) as one:
        await one.delivery.keep([record(1)])

        assert one.counts.new == 1
    assert len(await stored(database)) == 1


async def test_with_a_full_disk_and_no_database_records_are_refused_and_counted(
    database: Database, tmp_path: Path
) -> None:
    """Envoy keeps them and asks another worker."""
    async with worker(tmp_path, database.settings, limits=SpoolLimits(max_bytes=20)) as one:
        async with away(database):
            with pytest.raises(NotKeptError):
                await one.delivery.keep([record(1), record(2)])

        assert (one.counts.gone, one.counts.refusals) == ({}, 2)


async def test_a_request_whose_end_was_told_is_settled(database: Database, tmp_path: Path) -> None:
    """Nothing more is kept of it."""
    async with worker(tmp_path, database.settings) as one:
        await note(one, judged(1))
        await one.delivery.keep([record(1)])
        one.wall[0] += SETTLE_SECONDS / 2
        await one.delivery.deliver()

        assert (files(one.spool, SegmentKind.JUDGED), one.counts.size) == (0, 0)
    assert await stored(database) == [("request-1", "completed", 100)]


async def test_nobody_is_asked_about_requests_whose_records_this_worker_delivered(
    database: Database, tmp_path: Path
) -> None:
    """Their notes go, even while the database is away."""
    async with worker(tmp_path, database.settings) as one:
        await note(one, judged(1))
        await one.delivery.keep([record(1)])
        await one.delivery.deliver()
        async with away(database):
            one.wall[0] += SETTLE_SECONDS / 2
            await one.delivery.deliver()

        assert (files(one.spool, SegmentKind.JUDGED), one.counts.size) == (0, 0)


async def test_an_end_that_another_worker_was_told_settles_a_request(
    database: Database, tmp_path: Path
) -> None:
    """The database knows of it, and only of it."""
    async with worker(tmp_path, database.settings, name="worker-0") as one:
        await note(one, judged(1))
        await note(one, judged(2))
        async with worker(tmp_path, database.settings, name="worker-1") as other:
            await other.delivery.keep([record(1)])
            await other.delivery.deliver()
        one.wall[0] += SETTLE_SECONDS * 2
        await one.delivery.deliver()
        await one.delivery.deliver()

    assert [row[:2] for row in await stored(database)] == [
        ("request-1", "completed"),
        ("request-2", "lost"),
    ]


async def test_what_a_worker_that_is_gone_had_noted_is_read_and_looked_up(
    database: Database, tmp_path: Path
) -> None:
    """Whoever takes over its files knows nothing of them."""
    async with worker(tmp_path, database.settings, name="worker-0") as gone:
        await note(gone, judged(1))
        await note(gone, judged(2))
    async with worker(tmp_path, database.settings, name="worker-1") as one:
        await one.delivery.keep([record(1)])
        one.let_notes_grow_old()
        await one.delivery.deliver()
        await one.delivery.deliver()

    assert [row[:2] for row in await stored(database)] == [
        ("request-1", "completed"),
        ("request-2", "lost"),
    ]


def _note_and_die(root: Path) -> None:
    async def note_and_die() -> None:
        spool = await UsageSpool.open(
            root, instance="worker-0", limits=ROOMY, on_note_lost=lambda: None
        )
        spool.note(judged(1))
        os._exit(9)

    asyncio.run(note_and_die())


async def test_a_request_is_recorded_though_worker_and_envoy_are_killed_at_once(
    database: Database, tmp_path: Path
) -> None:
    """Its worker had no time for a write to the disk, and no entry of a log ever comes."""
    process = multiprocessing.get_context("spawn").Process(target=_note_and_die, args=(tmp_path,))
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.join, 60)
    async with worker(tmp_path, database.settings, name="worker-1") as one:
        one.let_notes_grow_old()
        await one.delivery.deliver()
        await one.delivery.deliver()

    assert process.exitcode == 9
    assert [row[:2] for row in await stored(database)] == [("request-1", "lost")]


async def test_a_record_that_the_database_refuses_does_not_settle_its_request(
    database: Database, tmp_path: Path
) -> None:
    """It is recorded as lost in the end: it is not as if it had not been."""
    async with worker(tmp_path, database.settings) as one:
        await note(one, judged(1))
        await one.delivery.keep([replace(record(1), status=1_000_000)])
        one.wall[0] += SETTLE_SECONDS * 2
        await one.delivery.deliver()
        await one.delivery.deliver()

    assert [row[:2] for row in await stored(database)] == [("request-1", "lost")]


async def test_a_spool_writes_what_came_before_its_end_and_takes_nothing_after(
    tmp_path: Path,
) -> None:
    """Records are for the database then, and a note is counted as lost."""
    counts = Counts()
    spool = await UsageSpool.open(
        tmp_path, instance="worker-0", limits=ROOMY, on_note_lost=lambda: counts.lost("note")
    )
    spool.note(judged(1))
    keeping = asyncio.ensure_future(spool.keep([record(1)]))
    await asyncio.sleep(0)
    await spool.aclose()
    spool.note(judged(2))
    with pytest.raises(SpoolFullError, match="stopping"):
        await spool.keep([record(2)])

    assert (keeping.done(), counts.gone) == (True, {"note": 1})
    assert (files(spool, SegmentKind.ENDED), files(spool, SegmentKind.JUDGED)) == (1, 1)


async def test_a_request_that_still_runs_is_carried_over(
    database: Database, tmp_path: Path
) -> None:
    """As often as it takes; it is not lost yet."""
    async with worker(tmp_path, database.settings) as one:
        await note(one, judged(1))
        for _ in range(2):
            one.wall[0] += SETTLE_SECONDS / 2 - 1
            await one.delivery.deliver()

        assert files(one.spool, SegmentKind.JUDGED) == 1
        assert await stored(database) == []


async def test_a_request_that_nobody_told_the_end_of_is_recorded_as_lost(
    database: Database, tmp_path: Path
) -> None:
    """Estimated, and replaced should its end be told after all."""
    async with worker(tmp_path, database.settings) as one:
        await note(one, judged(1, text_bytes=40))
        one.wall[0] += SETTLE_SECONDS * 2
        await one.delivery.deliver()
        await one.delivery.deliver()
        assert await stored(database) == [("request-1", "lost", 10)]

        await one.delivery.keep([record(1)])
        await one.delivery.deliver()
    assert await stored(database) == [("request-1", "completed", 100)]


async def test_a_spool_that_is_full_of_overdue_notes_becomes_empty(
    database: Database, tmp_path: Path
) -> None:
    """Their records go straight to the database: the disk has no room for them."""
    async with worker(tmp_path, database.settings, limits=SpoolLimits(max_bytes=2000)) as one:
        kept = 0
        while not one.counts.gone["note"]:
            before = one.spool.size
            one.spool.note(judged(kept))
            while one.spool.size == before and not one.counts.gone["note"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            kept += one.spool.size > before
        one.let_notes_grow_old()
        await one.delivery.deliver()

        assert (files(one.spool, SegmentKind.JUDGED), one.counts.size) == (0, 0)
    assert [row[1] for row in await stored(database)] == kept * ["lost"]


async def test_nothing_is_taken_for_lost_while_the_database_does_not_answer(
    database: Database, tmp_path: Path
) -> None:
    """Its end may be among what waits."""
    async with worker(tmp_path, database.settings) as one:
        await note(one, judged(1))
        await one.delivery.keep([record(1)])
        async with away(database):
            one.wall[0] += SETTLE_SECONDS * 2
            await one.delivery.deliver()
        await one.delivery.deliver()

    assert await stored(database) == [("request-1", "completed", 100)]


async def test_prices_are_read_anew_after_a_while(database: Database, tmp_path: Path) -> None:
    """A price that was set counts for what is delivered from then on."""
    async with worker(tmp_path, database.settings) as one:
        await one.delivery.keep([record(1)])
        await one.delivery.deliver()
        await database.execute(
            "INSERT INTO prices (model, valid_from, input_per_million, output_per_million)"
            " VALUES ('*', '2020-01-01Z', 1, 1)"
        )
        one.wall[0] += 31
        await one.delivery.keep([record(2)])
        await one.delivery.deliver()

    async with database.connect() as connection:
        costs = await connection.fetch("SELECT cost_usd::float8 FROM usage ORDER BY request_id")
    assert [row[0] for row in costs] == [None, 0.00012]


async def test_a_place_that_cannot_be_written_to_is_named(
    database: Database, tmp_path: Path
) -> None:
    """With the setting that fixes it."""
    del database
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="EGRET_USAGE__SPOOL_DIRECTORY"):
        await UsageSpool.open(
            tmp_path / "file", instance="worker-0", limits=ROOMY, on_note_lost=lambda: None
        )


async def test_many_at_once_are_written_together(database: Database, tmp_path: Path) -> None:
    """Each of them returns when its own records are on the disk."""
    async with worker(tmp_path, database.settings) as one:
        await asyncio.gather(*(one.delivery.keep([record(number)]) for number in range(50)))
        await one.delivery.deliver()

        assert one.counts.new == 50


async def note(one: Worker, request: JudgedRequest) -> None:
    """Note a request and wait until the note is on the disk, in a file that began at `wall`."""
    before = noted(one)
    one.spool.note(request)
    async with asyncio.timeout(60):
        while noted(one) == before:  # noqa: ASYNC110 - a note tells nobody
            await asyncio.sleep(0.005)
    for segment in one.spool.segments(SegmentKind.JUDGED):
        segment.started_at = one.wall[0]


def noted(one: Worker) -> int:
    """Return how many bytes of notes there are."""
    return sum(segment.size for segment in one.spool.segments(SegmentKind.JUDGED))
