from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.storage.spool_files import (
    MAGIC,
    MAX_RECORD_BYTES,
    NOTES_BYTES,
    Adoption,
    MappedNotes,
    NotAdopted,
    Segment,
    SegmentKind,
    SpoolFolder,
    SpoolFullError,
    SpoolLimits,
    frame,
    not_adoptable,
    read_notes,
    read_piece,
)

LIMITS = SpoolLimits(max_bytes=10_000_000)
ONE, TWO, THREE = b"one", b"two" * 1000, b""


def read_all(path: Path) -> tuple[list[bytes], int]:
    """Return all payloads of a file, and how many bytes are damaged."""
    size = path.stat().st_size
    payloads: list[bytes] = []
    position, damaged = 0, 0
    while position < size:
        piece = read_piece(path, start=position, stop=size, max_records=2)
        assert piece.end > position
        payloads += piece.payloads
        position, damaged = piece.end, damaged + piece.damaged_bytes
    return payloads, damaged


def folder(root: Path, name: str = "worker-0", limits: SpoolLimits = LIMITS) -> SpoolFolder:
    return SpoolFolder(root, name, limits)


def append(spool: SpoolFolder, kind: SegmentKind, payloads: Sequence[bytes]) -> None:
    spool.append(kind, map(frame, payloads))


def only(spool: SpoolFolder) -> Segment:
    (segment,) = spool.segments
    return segment


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    """Records of any size, empty ones too, and longer than what is read at once."""
    spool = folder(tmp_path)
    long = b"x" * (MAX_RECORD_BYTES - 1)
    append(spool, SegmentKind.ENDED, [ONE, TWO])
    append(spool, SegmentKind.ENDED, [THREE, long, ONE])

    assert read_all(only(spool).path) == ([ONE, TWO, THREE, long, ONE], 0)
    spool.close()


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.data())
def test_a_tail_that_is_cut_off_anywhere_costs_what_was_cut_off_only(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    """A process dies, or the power goes, in the middle of a write."""
    raw = MAGIC + b"".join(map(frame, payloads))
    cut = data.draw(st.integers(0, len(raw) - 1))
    path = tmp_path_factory.mktemp("spool") / "ended-1.spool"
    path.write_bytes(raw[:cut])

    found, damaged = read_all(path)
    whole = [
        p
        for i, p in enumerate(payloads)
        if len(MAGIC + b"".join(map(frame, payloads[: i + 1]))) <= cut
    ]
    assert found == whole
    sound = len(MAGIC) + sum(len(frame(payload)) for payload in whole)
    assert damaged == (cut - sound if cut > len(MAGIC) else cut if cut < len(MAGIC) else 0)


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.data())
def test_a_record_that_was_altered_is_never_believed(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], data: st.DataObject
) -> None:
    """One bit is enough; what came before it is read all the same."""
    raw = bytearray(MAGIC + b"".join(map(frame, payloads)))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("spool") / "ended-1.spool"
    path.write_bytes(raw)

    found, damaged = read_all(path)
    assert found == payloads[: len(found)]
    assert len(found) < len(payloads)
    assert damaged > 0


def test_a_file_that_somebody_removed_is_damaged_from_its_beginning(tmp_path: Path) -> None:
    """Whatever comes after it must not wait for it."""
    spool = folder(tmp_path)
    append(spool, SegmentKind.ENDED, [ONE])
    segment = only(spool)
    segment.path.unlink()

    piece = read_piece(segment.path, start=0, stop=segment.size, max_records=1)
    assert (piece.payloads, piece.end, piece.damaged_bytes) == ((), segment.size, segment.size)
    spool.seal(SegmentKind.ENDED)
    spool.remove(segment)
    spool.close()


UNREADABLE = {
    "Input/output error": lambda path: path.symlink_to("/proc/self/mem"),
    "Is a directory": lambda path: path.mkdir(),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_file_that_the_system_does_not_let_be_read_is_damaged_and_stays(
    tmp_path: Path, fault: str
) -> None:
    """Its disk or its rights may be repaired: the next process tries it again."""
    spool = folder(tmp_path)
    append(spool, SegmentKind.ENDED, [ONE])
    segment = only(spool)
    segment.path.unlink()
    UNREADABLE[fault](segment.path)

    piece = read_piece(segment.path, start=0, stop=segment.size, max_records=1)
    assert (piece.payloads, piece.end, piece.damaged_bytes) == ((), segment.size, segment.size)
    assert piece.fault == fault
    segment.read_to, segment.is_kept = piece.end, True
    assert spool.remove_read(SegmentKind.ENDED) == [segment]
    assert spool.segments == []
    spool.close()
    assert segment.path.is_symlink() or segment.path.is_dir()


def test_a_process_without_descriptors_leaves_its_files_for_a_later_try(tmp_path: Path) -> None:
    """It says nothing about the file."""
    spool = folder(tmp_path)
    append(spool, SegmentKind.ENDED, [ONE])
    segment = only(spool)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read_piece(segment.path, start=0, stop=segment.size, max_records=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_all(segment.path) == ([ONE], 0)
    spool.close()


def test_a_spool_at_its_bound_takes_nothing_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    """All or nothing of what is appended together."""
    spool = folder(tmp_path, limits=SpoolLimits(max_bytes=100))
    append(spool, SegmentKind.ENDED, [b"x" * 50])
    with pytest.raises(SpoolFullError):
        append(spool, SegmentKind.ENDED, [ONE, b"x" * 50])

    assert read_all(only(spool).path) == ([b"x" * 50], 0)
    spool.close()


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_full_disk_leaves_no_half_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """What is written after it, once there is room, would be lost behind it."""
    spool = folder(tmp_path)
    append(spool, SegmentKind.ENDED, [ONE])
    real = os.write

    def half(descriptor: int, raw: memoryview) -> int:
        if len(raw) > 4:
            return real(descriptor, raw[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, half if call == "write" else full)
        with pytest.raises(SpoolFullError, match="No space left on device"):
            append(spool, SegmentKind.ENDED, [TWO])
    append(spool, SegmentKind.ENDED, [THREE])

    assert read_all(only(spool).path) == ([ONE, THREE], 0)
    spool.close()


def test_a_folder_is_one_processes_own_until_it_ends(tmp_path: Path) -> None:
    """Another one that looks for what the dead left behind finds nothing to take."""
    first, second = folder(tmp_path, "worker-0-1"), folder(tmp_path, "worker-0-2")
    append(first, SegmentKind.ENDED, [ONE])

    assert second.adopt().folders == 0
    first.close()
    assert second.adopt().folders == 1
    assert second.adopt().folders == 0
    assert read_all(only(second).path) == ([ONE], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["worker-0-2"]
    second.close()


def _die_with_records(root: Path) -> None:
    spool = folder(root, "worker-1-9")
    append(spool, SegmentKind.ENDED, [ONE, TWO])
    append(spool, SegmentKind.JUDGED, [THREE])
    os._exit(9)


def test_what_a_killed_process_had_written_is_adopted(tmp_path: Path) -> None:
    """The kernel lets go of its lock, however it dies."""
    process = multiprocessing.get_context("spawn").Process(
        target=_die_with_records, args=(tmp_path,)
    )
    process.start()
    process.join(30)
    spool = folder(tmp_path)

    assert (process.exitcode, spool.adopt().folders) == (9, 1)
    assert {segment.kind: read_all(segment.path)[0] for segment in spool.segments} == {
        SegmentKind.ENDED: [ONE, TWO],
        SegmentKind.JUDGED: [THREE],
    }
    spool.close()


def _die_with_notes(root: Path) -> None:
    spool = folder(root, "worker-1-9")
    for note in (ONE, TWO):
        spool.notes.put(frame(note))
    os._exit(9)


def test_notes_outlive_a_process_killed_before_it_wrote_them(tmp_path: Path) -> None:
    """They become a file of their own, even if the new owner is writing notes itself."""
    process = multiprocessing.get_context("spawn").Process(
        target=_die_with_notes, args=(tmp_path,)
    )
    process.start()
    process.join(30)
    spool = folder(tmp_path)
    append(spool, SegmentKind.JUDGED, [b"own"])

    assert spool.adopt().folders == 1
    append(spool, SegmentKind.JUDGED, [b"own too"])
    assert [read_all(segment.path) for segment in spool.segments] == [
        ([b"own"], 0),
        ([ONE, TWO], 0),
        ([b"own too"], 0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["worker-0"]
    spool.close()


def test_notes_of_a_dead_process_stay_until_there_is_room_for_them(tmp_path: Path) -> None:
    """The next look for folders without an owner finds them again."""
    full = folder(tmp_path, limits=SpoolLimits(max_bytes=10))
    gone = tmp_path / "worker-1-9"
    gone.mkdir()
    notes = MappedNotes(gone / "notes.map")
    notes.put(frame(ONE))

    assert full.adopt().folders == 0
    roomy = folder(tmp_path, "worker-2")
    assert roomy.adopt().folders == 1
    assert read_all(only(roomy).path) == ([ONE], 0)
    for spool in (full, roomy):
        spool.close()


@given(st.lists(st.integers(1, NOTES_BYTES // 3), min_size=1, max_size=20))
def test_the_last_notes_are_kept_in_bounded_memory(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Older ones give way; a note that is too long for any place is left out."""
    path = tmp_path_factory.mktemp("notes") / "notes.map"
    notes = MappedNotes(path)
    framed = [frame(bytes([number]) * size) for number, size in enumerate(sizes, start=1)]
    for one in framed:
        notes.put(one)
    notes.put(bytes(NOTES_BYTES + 1))
    found = read_notes(path)

    last = len(framed)
    while last and sum(map(len, framed[last - 1 :])) <= NOTES_BYTES * 2 // 3:
        last -= 1
    assert set(framed[last:]) <= set(found) <= set(framed)
    assert path.stat().st_size == 2 * NOTES_BYTES


def test_a_full_disk_costs_only_the_notes_of_a_process_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker starts all the same, and no write to memory can kill it."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    spool = folder(tmp_path)
    spool.notes.put(frame(ONE))

    assert read_notes(spool.path / "notes.map") == []
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_later_version_stay_where_they_are(tmp_path: Path) -> None:
    """Whoever can read them will come for them."""
    gone = folder(tmp_path, "worker-0-1")
    (gone.path / "summary-00000001.spool").write_bytes(b"egret-spool-2\n")
    gone.close()
    spool = folder(tmp_path, "worker-0-2")

    assert spool.adopt().folders == 0
    assert (tmp_path / "worker-0-1" / "summary-00000001.spool").exists()
    spool.close()


def _adopt_as_another_user(root: Path, results: multiprocessing.SimpleQueue[object]) -> None:
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    spool = folder(root, "worker-1")
    results.put((spool.adopt(), not_adoptable(root), [one.kind for one in spool.segments]))


def test_a_folder_that_cannot_be_adopted_holds_up_no_other() -> None:
    """Each has its reason; a folder of the file system is no fault."""
    is_root = os.geteuid() == 0  # then a process of another user adopts
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o777)
        for other in ("worker-0-1", "worker-0-2", "lost+found"):
            (root / other).mkdir(mode=0o700 if is_root or other == "worker-0-2" else 0)
        gone = folder(root, "worker-0-3")
        append(gone, SegmentKind.ENDED, [ONE])
        gone.close()
        for path in (gone.path, *gone.path.iterdir()):
            path.chmod(0o777)
        spawning = multiprocessing.get_context("spawn")
        results: multiprocessing.SimpleQueue[object] = spawning.SimpleQueue()
        process = spawning.Process(target=_adopt_as_another_user, args=(root, results))
        process.start()
        process.join(30)

    refused = (
        dict.fromkeys(("worker-0-1", "worker-0-2"), NotAdopted.NOT_OURS)
        if is_root
        else {"worker-0-1": NotAdopted.UNREADABLE}
    )
    assert results.get() == (Adoption(1, refused), refused, [SegmentKind.ENDED])


def test_a_file_that_cannot_be_moved_holds_up_no_other_of_its_folder(tmp_path: Path) -> None:
    """Such as notes that the disk does not give back."""
    gone = folder(tmp_path, "worker-0-1")
    append(gone, SegmentKind.ENDED, [ONE])
    append(gone, SegmentKind.JUDGED, [TWO])
    gone.close()
    (gone.path / "notes.map").symlink_to("/proc/self/mem")
    (gone.path / "ended-00000000.spool").symlink_to(gone.path / "ended-00000000.spool")
    spool = folder(tmp_path)

    assert spool.adopt() == Adoption(0, {"worker-0-1": NotAdopted.UNREADABLE})
    assert [read_all(one.path) for one in spool.segments] == [([ONE], 0), ([TWO], 0)]
    assert not_adoptable(tmp_path) == {}
    spool.close()


def test_a_long_file_is_followed_by_another_and_a_read_one_goes(tmp_path: Path) -> None:
    """So that room is given back while it is still written to."""
    spool = folder(tmp_path, limits=SpoolLimits(max_bytes=10_000, segment_bytes=60))
    for _ in range(3):
        append(spool, SegmentKind.ENDED, [b"x" * 30])
    first, second = spool.segments
    assert (spool.is_sealed(first), spool.is_sealed(second)) == (True, False)

    spool.remove(first)
    assert spool.segments == [second]
    assert [path.name for path in spool.path.glob("*.spool")] == [second.path.name]
    spool.close()
    assert spool.path.exists()


def test_an_empty_folder_goes_when_its_process_ends(tmp_path: Path) -> None:
    """Nothing is left behind."""
    spool = folder(tmp_path)
    append(spool, SegmentKind.ENDED, [ONE])
    spool.seal(SegmentKind.ENDED)
    spool.remove(only(spool))
    spool.close()

    assert list(tmp_path.iterdir()) == []
