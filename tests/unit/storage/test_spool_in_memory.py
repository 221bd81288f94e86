"""What is kept in memory of a spool's files: the right part of it, and never too much."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from msgspec.structs import replace

from sidecar.storage.spool import FreshRecords, OpenRequests
from sidecar.storage.spool_files import Place, Segment, SegmentKind
from tests.support.usage import MOMENT, judged, record

STEP = 108
BEGIN = 14


def file(kind: SegmentKind = SegmentKind.ENDED, *, records: int = 0) -> Segment:
    return Segment(Path("x.spool"), kind, size=BEGIN + records * STEP, started_at=0, read_to=BEGIN)


def put(fresh: FreshRecords, segment: Segment, *numbers: int) -> None:
    """Keep records that stand in *segment* where their numbers say."""
    start = BEGIN + numbers[0] * STEP
    place = Place(segment, start, start + len(numbers) * STEP)
    fresh.put(place, [record(number) for number in numbers])


def test_records_come_in_pieces_each_with_its_end() -> None:
    """All of a write together; they stay until the file is read further."""
    fresh, segment = FreshRecords(), file(records=5)
    put(fresh, segment, 0, 1)
    put(fresh, segment, 2)
    put(fresh, segment, 3, 4)

    first = ([record(0), record(1), record(2)], BEGIN + 3 * STEP)
    assert fresh.next_of(segment, wanted=3) == first
    assert fresh.next_of(segment, wanted=3) == first
    segment.read_to = first[1]
    assert fresh.next_of(segment, wanted=1) == ([record(3), record(4)], segment.size)
    segment.read_to = segment.size
    assert fresh.next_of(segment, wanted=3) == ([], segment.size)


def test_what_is_too_much_is_left_to_the_disk_and_what_comes_later_is_not_read_twice() -> None:
    """The first records fill the memory, the next are not kept, the last are kept again."""
    fresh, segment = FreshRecords(most=2), file(records=6)
    put(fresh, segment, 0, 1)
    put(fresh, segment, 2)
    put(fresh, segment, 3)
    segment.read_to = fresh.next_of(segment, wanted=10)[1]
    assert segment.read_to == BEGIN + 2 * STEP
    assert fresh.next_of(segment, wanted=10) == ([], segment.read_to)
    put(fresh, segment, 4, 5)

    assert fresh.next_of(segment, wanted=10) == ([], segment.read_to)
    assert fresh.gap_of(segment) == BEGIN + 4 * STEP
    segment.read_to = BEGIN + 4 * STEP
    assert fresh.next_of(segment, wanted=10) == ([record(4), record(5)], segment.size)


def test_a_file_of_which_nothing_is_here_is_read_to_its_end() -> None:
    """Another worker wrote it, or it is gone."""
    fresh, segment = FreshRecords(), file(records=3)

    assert fresh.next_of(segment, wanted=9) == ([], BEGIN)
    assert fresh.gap_of(segment) == segment.size


def test_records_of_files_that_are_gone_make_room() -> None:
    """Also of those that were read from the disk before they came here."""
    fresh, first, second = FreshRecords(most=2), file(records=2), file(records=2)
    put(fresh, first, 0, 1)
    first.read_to = first.size
    fresh.forget([first])
    put(fresh, first, 0, 1)
    put(fresh, second, 0, 1)

    assert fresh.next_of(second, wanted=9)[0] == [record(0), record(1)]


def test_a_request_is_open_until_its_record_is_in_the_database() -> None:
    """In the file it was noted in, whichever that was."""
    requests, first, second = OpenRequests(), file(SegmentKind.JUDGED), file(SegmentKind.JUDGED)
    requests.put(first, [judged(1), judged(2)])
    requests.put(second, [judged(3)])
    requests.forget_ended([record(2), record(3), record(4)])

    assert requests.of(first) == [judged(1)]
    assert requests.of(second) == []


def test_two_requests_of_one_id_are_two() -> None:
    """A client may choose the id; the end of one of them says nothing of the other."""
    requests, segment = OpenRequests(), file(SegmentKind.JUDGED)
    later = replace(judged(1), occurred_at=MOMENT + timedelta(microseconds=1))
    requests.put(segment, [judged(1), later])
    requests.forget_ended([record(1)])

    assert requests.of(segment) == [later]


def test_of_a_file_with_too_many_open_requests_nothing_is_known() -> None:
    """A part of them would be taken for all; the file tells."""
    requests, first, second = (
        OpenRequests(most=3),
        file(SegmentKind.JUDGED),
        file(SegmentKind.JUDGED),
    )
    requests.put(first, [judged(1), judged(2)])
    requests.put(first, [judged(3), judged(4)])
    requests.put(first, [judged(5)])
    requests.put(second, [judged(6), judged(7), judged(8)])

    assert requests.of(first) is None
    assert requests.of(second) == [judged(6), judged(7), judged(8)]
    requests.forget([first, second])
    assert requests.of(second) is None
