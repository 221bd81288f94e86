"""Files of the usage spool, and the records of it that are kept in memory."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

MAGIC: Final = b"egret-spool-1\n"
_HEAD: Final = struct.Struct("<II")
MAX_RECORD_BYTES: Final = 1 << 20
"""Longer than any record of ours: a greater length is damage, and is not read into memory."""

NOTES_BYTES: Final = 1 << 19
"""Some 1,500 notes: more than a busy worker makes until they are on the disk."""

_LACKS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Of the process or the machine: they say nothing about a file."""

_LOCK_NAME: Final = "lock"
_NOTES_NAME: Final = "notes.map"
_SUFFIX: Final = ".spool"
_FOUND_NAME: Final = "lost+found"
"""At the root of a volume (e2fsck(8)); no user but root may look into it."""


class SegmentKind(enum.Enum):
    """The kind of entries in a file; part of its name."""

    JUDGED = "judged"
    ENDED = "ended"


class SpoolFullError(Exception):
    """The folder has reached its bound, or the disk accepts nothing more."""


class NotAdopted(enum.Enum):
    """Why the folder of a process that is gone is not adopted."""

    NOT_OURS = "not_ours"  # another user's
    UNREADABLE = "unreadable"


class SpoolError(Exception):
    """The spool cannot be used at all; the message names the folder, the reason and the fix."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """`max_bytes` bounds all files of a folder together."""

    max_bytes: int
    segment_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Adoption:
    """The number of folders that were adopted, and those that could not be, by name."""

    folders: int
    refused: Mapping[str, NotAdopted]


@dataclass(frozen=True, slots=True)
class Piece:
    """Records read from one file. `end` is where the next read begins.

    With `damaged_bytes` the file ends here: that many bytes cannot be read. `fault` is the
    system's reason if it did not let them be read: the file itself may be sound.
    """

    payloads: tuple[bytes, ...]
    end: int
    damaged_bytes: int = 0
    fault: str = ""


def frame(payload: bytes) -> bytes:
    """Return *payload* as a record of a file."""
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def read_piece(path: Path, *, start: int, stop: int, max_records: int) -> Piece:
    """Read at most *max_records* from *start* on; *stop* is where the writer had come to.

    A file that was removed counts as damaged from its beginning, one that cannot be read as
    damaged from *start* on.

    Raises:
        OSError: the process lacks memory or descriptors; a later try may succeed.
    """
    fault = ""
    try:
        with path.open("rb") as file:
            if start == 0:
                if file.read(len(MAGIC)) != MAGIC:
                    return Piece((), stop, damaged_bytes=stop)
                start = len(MAGIC)
            file.seek(start)
            payloads: list[bytes] = []
            for payload in _records(file.read(min(stop - start, max_records * 4096)), max_records):
                payloads.append(payload)
                start += _HEAD.size + len(payload)
            if payloads or start >= stop:
                return Piece(tuple(payloads), start)
            # Not even one: either it is longer than what was read, or it is damaged.
            file.seek(start)
            longest = min(stop - start, MAX_RECORD_BYTES + _HEAD.size)
            for payload in _records(file.read(longest), 1):
                return Piece((payload,), start + _HEAD.size + len(payload))
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in _LACKS:
            raise
        fault = os.strerror(error.errno or 0)
    return Piece((), stop, damaged_bytes=stop - start, fault=fault)


def _records(raw: bytes, limit: int) -> Iterator[bytes]:
    """Yield the complete and sound records at the beginning of *raw*."""
    position = 0
    for _ in range(limit):
        if position + _HEAD.size > len(raw):
            return
        length, checksum = _HEAD.unpack_from(raw, position)
        begin = position + _HEAD.size
        payload = raw[begin : begin + length]
        if length > MAX_RECORD_BYTES or len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield payload
        position = begin + length


class MappedNotes:
    """The last notes, in a mapped file: they outlive a killed process, before they are on disk.

    A note is copied, without a system call. Two halves are filled in turns, so that the last
    `NOTES_BYTES` stay. The file is never forced to the disk: its notes are soon in a segment.
    """

    def __init__(self, path: Path) -> None:
        self._at, self._end = 0, NOTES_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Reserved: writing to a page for which the disk has no room would kill the process.
            os.posix_fallocate(descriptor, 0, 2 * NOTES_BYTES)
            self._map = mmap.mmap(descriptor, 2 * NOTES_BYTES)
        except OSError:
            self._map = mmap.mmap(-1, 2 * NOTES_BYTES)  # the disk is full: its notes do not stay
        finally:
            os.close(descriptor)

    def put(self, framed: bytes) -> None:
        """Copy one note, as `frame` returns it."""
        size = len(framed)
        if size > self._end - self._at:
            if size > NOTES_BYTES:
                return
            self._at = self._end % (2 * NOTES_BYTES)
            self._end = self._at + NOTES_BYTES
        self._map[self._at : self._at + size] = framed
        self._at += size


def read_notes(path: Path) -> list[bytes]:
    """Return the notes in a mapped file of a process that is gone, as `frame` returned them."""
    raw = path.read_bytes() if path.exists() else b""
    notes: list[bytes] = []
    for half in (raw[:NOTES_BYTES], raw[NOTES_BYTES:]):
        # Behind the last note are zeros, or the rest of an older one, whose checksum is wrong.
        notes += map(frame, takewhile(bool, _records(half, NOTES_BYTES)))
    return notes


class Segment:
    """One file of a folder. `size` is the number of bytes that may be read.

    Entries before `read_to` were taken; 0 means that the first bytes are still to be checked.
    `is_kept` is whether the file stays on the disk, as the system did not let all of it be read.
    """

    __slots__ = ("is_kept", "kind", "path", "read_to", "size", "started_at")

    def __init__(
        self, path: Path, kind: SegmentKind, *, size: int, started_at: float, read_to: int = 0
    ) -> None:
        self.path = path
        self.kind = kind
        self.size = size
        self.started_at = started_at
        self.read_to = read_to
        self.is_kept = False

    @property
    def is_read(self) -> bool:
        """Whether all entries were taken."""
        return self.read_to >= self.size


@dataclass(frozen=True, slots=True)
class Place:
    """A range of bytes in a file: from *start* up to and without *end*."""

    segment: Segment
    start: int
    end: int


class SpoolFolder:
    """The files of one process, locked against all others; one writer for each kind."""

    def __init__(self, root: Path, name: str, limits: SpoolLimits) -> None:
        """Make and lock the folder.

        Raises:
            OSError: it cannot be made.
        """
        self._root = root
        self._limits = limits
        self.path = root / name
        hidden = root / f".{name}"
        hidden.mkdir(mode=0o700, parents=True)
        self._lock = lock_file(hidden / _LOCK_NAME)
        self.notes = MappedNotes(hidden / _NOTES_NAME)
        hidden.rename(self.path)  # no other process sees the folder before it is locked
        self._number = 0
        self._writing: dict[SegmentKind, tuple[Segment, int]] = {}
        self.segments: list[Segment] = []

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(segment.size for segment in self.segments)

    def append(self, kind: SegmentKind, framed: Iterable[bytes]) -> Place:
        """Write records to the end, force them to the disk, and return where they are.

        Raises:
            SpoolFullError: nothing of it was written.
        """
        raw = b"".join(framed)
        if self.size + len(raw) > self._limits.max_bytes:
            raise SpoolFullError("the spool has reached its bound")
        try:
            segment, descriptor = self._writer(kind)
        except OSError as error:
            raise SpoolFullError(os.strerror(error.errno or 0)) from error
        try:
            _write_all(descriptor, raw)
            os.fdatasync(descriptor)
        except OSError as error:
            # A part of a record would hide all that is written after it.
            os.ftruncate(descriptor, segment.size)
            raise SpoolFullError(os.strerror(error.errno or 0)) from error
        place = Place(segment, segment.size, segment.size + len(raw))
        segment.size = place.end
        if segment.size >= self._limits.segment_bytes:
            self.seal(kind)
        return place

    def seal(self, kind: SegmentKind) -> None:
        """Write no more to the present file of *kind*; the next append begins another."""
        if kind in self._writing:
            os.close(self._writing.pop(kind)[1])

    def remove_read(self, kind: SegmentKind) -> list[Segment]:
        """Remove and return the files of *kind* that were read to their end.

        One that `is_kept` is left for the process that adopts this folder.
        """
        segments = [segment for segment in self.segments if segment.kind is kind]
        if all(segment.is_read for segment in segments):
            self.seal(kind)
        removed = [one for one in segments if one.is_read and self.is_sealed(one)]
        for segment in removed:
            self.remove(segment)
        return removed

    def is_sealed(self, segment: Segment) -> bool:
        """Return whether *segment* is complete: nothing more will be written to it."""
        return all(writing is not segment for writing, _ in self._writing.values())

    def remove(self, segment: Segment) -> None:
        """Remove a file that is sealed and no longer needed."""
        if not segment.is_kept:
            segment.path.unlink(missing_ok=True)
        self.segments.remove(segment)

    def adopt(self) -> Adoption:
        """Adopt the files of processes that are gone, as far as they can be."""
        adopted = 0
        refused: dict[str, NotAdopted | None] = {}
        try:
            folders = [*_folders(self._root)]
        except OSError:
            folders, refused[self._root.name] = [], NotAdopted.UNREADABLE
        for folder in folders:
            if folder == self.path:
                continue
            try:
                lock = lock_file(folder / _LOCK_NAME)
            except (BlockingIOError, FileNotFoundError):
                continue  # its owner lives, or another process has just adopted it
            except OSError:
                refused[folder.name] = _reason_against(folder)
                continue
            try:
                adopted += self._adopt_files(folder)
            except OSError:
                refused[folder.name] = _reason_against(folder)
            finally:
                os.close(lock)
        return Adoption(adopted, {name: why for name, why in refused.items() if why is not None})

    def _adopt_files(self, folder: Path) -> bool:
        """Move the files of a locked folder to this one; return whether there were any.

        Raises:
            OSError: some could not be moved; all others were.
        """
        files, fault = 0, None
        for path in sorted(folder.iterdir()):
            # A file of a later version stays, and so does the folder.
            kind = next((kind for kind in SegmentKind if path.name.startswith(kind.value)), None)
            try:
                if path.name == _NOTES_NAME:
                    files += self._adopt_notes(path)
                elif path.suffix == _SUFFIX and kind is not None:
                    status = path.stat()
                    size, started_at = status.st_size, status.st_mtime
                    mine = path.rename(self._new_path(kind))
                    self.segments.append(Segment(mine, kind, size=size, started_at=started_at))
                    files += 1
            except FileNotFoundError:
                continue  # removed by hand
            except OSError as error:
                fault = error
        if fault is not None:
            raise fault
        _remove_if_empty(folder)
        return files > 0

    def _adopt_notes(self, path: Path) -> bool:
        """Copy the mapped notes at *path* to a segment; return whether there were any."""
        framed = read_notes(path)
        if framed:
            # A segment of their own: only its own notes are in memory as open requests.
            self.seal(SegmentKind.JUDGED)
            try:
                self.append(SegmentKind.JUDGED, framed)
            except SpoolFullError:
                return False  # they stay, with their folder
            self.seal(SegmentKind.JUDGED)
        path.unlink(missing_ok=True)
        return bool(framed)

    def close(self) -> None:
        """Release the folder; remove it if nothing is left in it."""
        for kind in SegmentKind:
            self.seal(kind)
        (self.path / _NOTES_NAME).unlink()
        if not self.segments:
            _remove_if_empty(self.path)
        os.close(self._lock)

    def _writer(self, kind: SegmentKind) -> tuple[Segment, int]:
        writing = self._writing.get(kind)
        if writing is None:
            path = self._new_path(kind)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            try:
                _write_all(descriptor, MAGIC)
            except OSError:
                os.close(descriptor)
                path.unlink()
                raise
            # The name of a new file must last as long as its contents (fsync(2)).
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            begin = len(MAGIC)
            segment = Segment(path, kind, size=begin, started_at=time.time(), read_to=begin)
            self.segments.append(segment)
            writing = self._writing[kind] = (segment, descriptor)
        return writing

    def _new_path(self, kind: SegmentKind) -> Path:
        self._number += 1
        return self.path / f"{kind.value}-{self._number:08d}{_SUFFIX}"


def lock_file(file: Path, *, creates: bool = True) -> int:
    """Lock *file* until the descriptor is closed, or the process is gone.

    Raises:
        OSError: another process has it, or it is to be there and is not.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if creates else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def not_adoptable(root: Path) -> dict[str, NotAdopted]:
    """Return the folders in *root* that no process of this user can adopt; changes nothing."""
    found: dict[str, NotAdopted] = {}
    for folder in _folders(root):
        try:
            if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                os.close(lock_file(folder / _LOCK_NAME, creates=False))
                continue
        except (BlockingIOError, FileNotFoundError):
            continue  # its owner lives, or it is not locked
        except OSError:
            pass
        if (reason := _reason_against(folder)) is not None:
            found[folder.name] = reason
    return found


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders of processes; others are hidden, or the file system's own."""
    for folder in sorted(root.iterdir()):
        if not folder.name.startswith(".") and folder.name != _FOUND_NAME and folder.is_dir():
            yield folder


def _reason_against(folder: Path) -> NotAdopted | None:
    """Return why *folder* cannot be adopted; None if it is gone."""
    try:
        owner = folder.stat().st_uid
    except FileNotFoundError:
        return None
    except OSError:
        return NotAdopted.UNREADABLE
    return NotAdopted.UNREADABLE if owner == os.geteuid() else NotAdopted.NOT_OURS


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [_LOCK_NAME]:
            (folder / _LOCK_NAME).unlink()
            folder.rmdir()


def _write_all(descriptor: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(descriptor, view) :]
