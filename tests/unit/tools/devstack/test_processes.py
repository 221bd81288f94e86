from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import textwrap
from pathlib import Path

import pytest
from egret_tools.devstack.processes import (
    MAX_DEATHS,
    Children,
    PartError,
    Program,
    check_port,
    free_port,
    until_ready,
)

from sidecar.settings.sections import inherited_environment

CHECKOUT = Path(__file__).parents[4]


def program(tmp_path: Path, script: str, *, grace_seconds: float = 5.0) -> Program:
    return Program(
        part="Thing",
        command=(sys.executable, "-u", "-c", textwrap.dedent(script)),
        log=tmp_path / "thing.log",
        environment=inherited_environment(),
        grace_seconds=grace_seconds,
    )


def is_running(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be reaped."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def gone(pid: int) -> bool:
    """Wait until the process has ended; False when it has not after a while."""
    for _ in range(1000):
        if not is_running(pid):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_child_is_stopped_when_its_block_ends(tmp_path: Path) -> None:
    """SIGTERM is enough for one that listens."""
    async with Children().running(program(tmp_path, "import time; time.sleep(60)")) as child:
        assert is_running(child.pid)
    assert not is_running(child.pid)


async def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    """After its grace."""
    script = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf")
    time.sleep(60)
    """
    deaf = program(tmp_path, script, grace_seconds=0.1)
    async with Children().running(deaf, piped=True) as child:
        assert await child.first_line() == b"deaf\n"
    assert not is_running(child.pid)


async def test_a_death_says_how_and_what_was_written_last(tmp_path: Path) -> None:
    """The log is named for the rest."""
    script = "import sys; print('no such table', file=sys.stderr); sys.exit(3)"
    async with Children().running(program(tmp_path, script)) as child:
        death = await child.ended()
    assert death.part == "Thing"
    assert "exited 3" in death.reason
    assert "no such table" in death.reason
    assert str(tmp_path / "thing.log") in death.hint


async def test_a_death_while_waiting_ends_the_wait(tmp_path: Path) -> None:
    """Nobody waits thirty seconds for a process that is gone."""

    async def never() -> bool:
        return False

    async with Children().running(program(tmp_path, "raise SystemExit(7)")) as child:
        with pytest.raises(PartError, match="exited 7"):
            await until_ready(child, never)


async def test_a_killed_program_is_restarted_and_its_process_id_written(tmp_path: Path) -> None:
    """The restart is reported with the death and the seconds until it was ready."""
    restarts: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
    children = Children(pid_directory=tmp_path)
    async with children.running(program(tmp_path, "import time; time.sleep(60)")) as child:
        keeping = asyncio.ensure_future(
            children.keep_running(lambda death, after: restarts.put_nowait((death.reason, after)))
        )
        killed = child.pid
        os.kill(killed, signal.SIGKILL)
        reason, seconds = await restarts.get()
        keeping.cancel()
        assert is_running(child.pid)
        assert (tmp_path / "thing").read_text() == f"{child.pid}\n"
    assert child.pid != killed
    assert "killed by signal 9" in reason
    assert 0 <= seconds < 30
    assert not is_running(child.pid)


async def test_a_program_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    """Its last death is returned."""
    restarts: list[object] = []
    children = Children()
    async with children.running(program(tmp_path, "raise SystemExit(7)")):
        death = await children.keep_running(lambda *restart: restarts.append(restart))
    assert "exited 7" in death.reason
    assert len(restarts) == MAX_DEATHS


async def test_a_part_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    """The limit is part of the message."""

    async def never() -> bool:
        return False

    async with Children().running(program(tmp_path, "import time; time.sleep(60)")) as child:
        with pytest.raises(PartError, match=r"within 0\.05 s"):
            await until_ready(child, never, seconds=0.05)


async def test_a_program_that_is_not_there_is_a_death_like_any_other(tmp_path: Path) -> None:
    """The tether cannot become it, and its last words say why."""
    missing = Program(
        part="Thing",
        command=(str(tmp_path / "missing"),),
        log=tmp_path / "thing.log",
        environment=inherited_environment(),
    )
    async with Children().running(missing) as child:
        death = await child.ended()
    assert "FileNotFoundError" in death.reason


async def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Even SIGKILL, which leaves the parent no time to stop anything."""
    script = f"""
    import asyncio, pathlib, sys
    from egret_tools.devstack.processes import Children, Program
    async def main():
        child = Program(
            part="Thing", command=(sys.executable, "-c", "import time; time.sleep(60)"),
            log=pathlib.Path({str(tmp_path / "inner.log")!r}), environment={{}},
        )
        async with Children().running(child) as running:
            print(running.pid, flush=True)
            await asyncio.sleep(60)
    asyncio.run(main())
    """
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(script),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    try:
        assert is_running(pid)
        parent.kill()
        await parent.wait()
        assert await gone(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_port_in_use_is_named_with_the_hint() -> None:
    """SO_REUSEPORT of the one that listens does not hide it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PartError) as refused:
            check_port("Envoy", port)
    assert str(refused.value) == f"Envoy: port {port} is in use"
    assert "leave the port out" in refused.value.hint


def test_a_free_port_passes_the_check_and_can_be_had() -> None:
    """Zero, what the options default to, passes as well."""
    port = free_port()
    check_port("Envoy", port)
    check_port("Envoy", 0)
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", port))
        assert mine.getsockname()[1] == port
