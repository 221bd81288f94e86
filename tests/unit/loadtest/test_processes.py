from __future__ import annotations

import os
import subprocess
import sys

import pytest

from loadtest.processes import (
    cpu_seconds,
    cpu_ticks,
    family_of,
    resident_kib,
    resident_mb,
)


def test_ticks_are_found_behind_a_name_with_blanks_and_brackets() -> None:
    """A process may call itself anything; the last bracket ends its name."""
    fields = ["S", *(str(number) for number in range(4, 14)), "250", "31", "0", "0"]
    assert cpu_ticks(f"17 (a) b (c)) {' '.join(fields)}\n") == 281


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
