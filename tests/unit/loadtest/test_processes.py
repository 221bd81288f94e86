from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from loadtest.processes import (
    cpu_seconds,
    family_of,
    paused,
    resident_kib,
    resident_mb,
)


def test_cpu_time_of_another_process_is_that_of_its_own_clock() -> None:
    """Finer than the ticks of `stat`, threads that have ended included."""
    work = (
        "import sys, threading, time; from functools import partial;"
        " one = threading.Thread(target=partial(sum, range(2_000_000))); one.start(); one.join();"
        " print(time.process_time(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        used = float(child.stdout.readline())
        assert used <= cpu_seconds([child.pid]) < used + 0.1
        child.communicate(b"\n")


def test_cpu_time_of_a_process_that_has_ended_is_an_error() -> None:
    """It must not come out as zero."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(OSError, match=r"\[Errno"):
        cpu_seconds([child.pid])


def test_resident_memory_is_read_in_kibibytes() -> None:
    """The kernel writes kB and means KiB."""
    assert resident_kib("Name:\tpython\nVmHWM:\t 9000 kB\nVmRSS:\t   8192 kB\n") == 8192


def test_a_process_without_memory_has_ended() -> None:
    """A zombie has no VmRSS; it must not come out as zero."""
    with pytest.raises(ValueError, match="VmRSS"):
        resident_kib("Name:\tpython\nState:\tZ (zombie)\n")


def test_this_process_has_used_time_and_memory() -> None:
    """The real files have the shape we read."""
    sum(range(2_000_000))
    assert cpu_seconds([os.getpid()]) > 0
    assert resident_mb(os.getpid()) > 1


def test_a_family_is_a_process_and_all_below_it() -> None:
    """A supervisor and its workers are counted together, and what a worker starts."""
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    parent = subprocess.Popen([sys.executable, "-c", nested + "; input()"], stdin=subprocess.PIPE)
    try:
        while len(family := family_of(parent.pid)) == 1:
            pass
        assert family[0] == parent.pid
        assert set(family) < set(family_of(os.getpid()))
    finally:
        parent.communicate(b"")


@pytest.mark.parametrize("fails", [False, True])
def test_paused_processes_go_on_afterwards(*, fails: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(input(), flush=True)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        with (
            pytest.raises(RuntimeError) if fails else contextlib.nullcontext(),
            paused([child.pid]),
        ):
            assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
            if fails:
                raise RuntimeError
        assert child.communicate(b"gone on\n", timeout=60)[0] == b"gone on\n"
