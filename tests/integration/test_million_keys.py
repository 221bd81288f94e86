"""Up to a million keys into the database and out again, by the command line on a terminal."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.settings.sections import inherited_environment
from tests.support.postgres import Database
from tests.support.sizes import sized

pytestmark = [pytest.mark.million, pytest.mark.long, pytest.mark.timeout(400)]

KEYS = sized(1_000_000, small=250_000)
TEAMS = 1_000
MAX_MEMORY_KB = 250 * 1024
HEADER = "key_id,secret_sha256,team,name\n"


@dataclass(frozen=True)
class Ran:
    """How a command ended, what it showed on its terminal, and the most memory it took."""

    code: int
    screen: str
    memory_kb: int

    @property
    def percentages(self) -> set[int]:
        """What the bar showed."""
        return {int(number) for number in re.findall(r"(\d+)%", self.screen)}


def lines() -> Iterator[str]:
    digest = hashlib.sha256(b"secret").hexdigest()
    yield HEADER
    for number in range(KEYS):
        yield f"{number:012},{digest},acme/team-{number % TEAMS},key-{number}\n"


def _peak_kb(pid: int) -> int:
    """What it took at most so far; `getrusage` would count what this process takes as well.

    A child that shares its parent's memory until it executes its program inherits that peak.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) if peak else 0


def run(database: Database, *arguments: str) -> Ran:
    """Run `egret` with a terminal as its standard error."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []
    peaks = [0]

    def read() -> None:
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux: nobody holds the other side any more
                return
            shown.append(chunk)
            peaks.append(_peak_kb(process.pid))

    environment = {
        **inherited_environment(),
        "EGRET_POSTGRES__DSN": database.dsn,
        "EGRET_POSTGRES__ACQUIRE_SECONDS": "20",
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    command = [sys.executable, "-m", "sidecar", *arguments]
    process = subprocess.Popen(command, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    process.wait()
    reader.join()
    os.close(ours)
    return Ran(process.returncode, b"".join(shown).decode(), max(peaks))


def test_many_keys_go_in_and_come_out_with_a_bar_and_little_memory(
    database: Database, tmp_path: Path
) -> None:
    """What comes out is what went in, and the bar moves all along."""
    first, second = tmp_path / "in.csv", tmp_path / "out.csv"
    with first.open("w") as stream:
        stream.writelines(lines())

    imported = run(database, "keys", "import", str(first), "--create-owners")
    exported = run(database, "keys", "export", str(second))

    assert (imported.code, exported.code) == (0, 0), (imported.screen, exported.screen)
    assert f"{KEYS} keys imported, 0 skipped" in imported.screen
    assert f"{KEYS} keys exported" in exported.screen
    # The bar is drawn ten times a second: fewer keys, and a faster machine, make fewer of them.
    assert len(imported.percentages) > sized(20, small=4)
    assert len(exported.percentages) > sized(10, small=2)
    assert 0 < imported.memory_kb < MAX_MEMORY_KB
    assert 0 < exported.memory_kb < MAX_MEMORY_KB
    with second.open() as stream:
        header = stream.readline()
        came_out = {",".join(line.split(",")[:4]) for line in stream}
    assert header.startswith(HEADER.strip())
    assert came_out == {line.strip() for line in lines()} - {HEADER.strip()}
