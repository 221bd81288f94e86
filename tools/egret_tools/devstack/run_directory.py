"""The directory of one run: locked while it lasts, cleared when it ends."""

from __future__ import annotations

import enum
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from egret_tools.devstack.processes import PartError, part_error_from
from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES

PART: Final = "Run directory"
LOCK_NAME: Final = ".egret-up.lock"
READY_NAME: Final = "egret.json"
DATA_NAME: Final = "data"
LONGEST_SOCKET: Final = "data/postgres/.s.PGSQL.5432"
"""The longest path of a socket that any part makes below the run directory."""
MIN_FREE_BYTES: Final = 256 * 1024 * 1024
"""A new PostgreSQL cluster takes some 40 MB, its log of changes 16 and more."""


KEPT_AFTER_A_FAILURE: Final = frozenset({"logs", "access.jsonl", "traces.jsonl", "envoy.yaml"})
"""No file among them holds a key of a provider."""


class Data(enum.Enum):
    """The data of earlier runs and of this one: keys, policies, prices, usage."""

    REMOVED = "removed"
    """There is none before the run and none after it."""
    FRESH = "fresh"
    """Earlier data is removed; that of this run stays for the next."""
    KEPT = "kept"
    """The run continues with earlier data."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Where everything of one run lies."""

    path: Path

    @property
    def data(self) -> Path:
        """What the next run continues with."""
        return self.path / DATA_NAME

    @property
    def pids(self) -> Path:
        """One file a part, with its process id."""
        return self.path / "pids"

    @property
    def logs(self) -> Path:
        """One file a part."""
        return self.path / "logs"

    @property
    def sockets(self) -> Path:
        """One socket a worker."""
        return self.path / "sockets"

    @property
    def temporary(self) -> Path:
        """Temporary files of parts, instead of the machine's own directory."""
        return self.path / "tmp"

    @property
    def traces_file(self) -> Path:
        """Spans of Envoy and Egret, a JSON line each."""
        return self.path / "traces.jsonl"

    @property
    def access_log(self) -> Path:
        """Envoy's, a JSON line each."""
        return self.path / "access.jsonl"

    def write_ready(self, facts: Mapping[str, object]) -> None:
        """Write `egret.json` in one step, so that who waits for it reads all of it or nothing."""
        new = self.path / f".{READY_NAME}.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(dict(facts), option=orjson.OPT_INDENT_2) + b"\n")
        new.replace(self.path / READY_NAME)

    def forget_ready(self) -> None:
        """Take `egret.json` away before anything stops."""
        (self.path / READY_NAME).unlink(missing_ok=True)


@contextmanager
def run_directory(
    path: Path, *, keep: bool = False, data: Data = Data.REMOVED
) -> Iterator[RunDirectory]:
    """Make the directory, lock it, and clear it in the end unless *keep*.

    Logs stay after a PartError. Leftovers of a killed run are cleared away first; files of another
    origin are refused.

    Raises:
        PartError: it cannot be used, or another run uses it.
    """
    path = path.resolve()
    _check_length(path)
    lock = _locked(path)
    kept_data = frozenset() if data is Data.REMOVED else frozenset({DATA_NAME})
    left = kept_data
    try:
        _clear(path, but={DATA_NAME} if data is Data.KEPT else ())
        _check_space(path)
        directory = RunDirectory(path)
        directory.data.mkdir(mode=0o755, exist_ok=True)
        for new in (directory.logs, directory.sockets, directory.temporary, directory.pids):
            new.mkdir(mode=0o700)
        yield directory
    except PartError:
        left |= KEPT_AFTER_A_FAILURE
        raise
    except BrokenPipeError:  # of the output, whose reader has left
        raise
    except OSError as error:
        left |= KEPT_AFTER_A_FAILURE
        raise part_error_from(PART, error, path=path) from error
    finally:
        if not keep:
            with suppress(OSError):  # a user may have removed it already
                _clear(path, but=left)
                if not left:
                    shutil.rmtree(path)
        os.close(lock)


def _locked(path: Path) -> int:
    try:
        _refuse_a_strangers(path)
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise part_error_from(PART, error, path=path) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise PartError(
            PART,
            f"another `egret up` (pid {owner or 'unknown'}) runs in {path}",
            hint="stop it, or choose another place with --run",
        ) from None
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _refuse_a_strangers(path: Path) -> None:
    """Never clear a directory that no run of ours has made."""
    if not path.exists() or (path / LOCK_NAME).exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise PartError(
            PART,
            f"{path} exists and was not made by `egret up`",
            hint="move it away, or choose another place with --run",
        )


def _clear(path: Path, *, but: Collection[str]) -> None:
    for entry in path.iterdir():
        if entry.name == LOCK_NAME or entry.name in but:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_space(path: Path) -> None:
    free = shutil.disk_usage(path).free
    if free < MIN_FREE_BYTES:
        raise PartError(
            PART,
            f"{free // 1024**2} MB are free in {path}, {MIN_FREE_BYTES // 1024**2} are needed",
            hint="free some space, or choose another place with --run",
        )


def _check_length(path: Path) -> None:
    longest = str(path / LONGEST_SOCKET)
    if len(longest.encode()) > MAX_SOCKET_PATH_BYTES:
        room = MAX_SOCKET_PATH_BYTES - len(LONGEST_SOCKET) - 1
        raise PartError(
            PART,
            f"{path} is too long: a Unix socket below it leaves room for {room} bytes",
            hint="choose a shorter one with --run",
        )
