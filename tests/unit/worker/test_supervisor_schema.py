from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.settings.process import Settings
from sidecar.settings.sections import inherited_environment
from sidecar.settings.serving import ServerSettings
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.storage.migrate import REVISION
from sidecar.worker.supervisor import Supervisor, log_schema
from tests.support.log_lines import LogLines


@pytest.mark.parametrize(
    ("revision", "level", "event", "hint"),
    [
        (REVISION, "info", "schema.current", None),
        ("", "error", "schema.none", "run `egret migrate`"),
        ("0001", "error", "schema.behind", "run `egret migrate`"),
        ("9999", "warning", "schema.ahead", "upgrade Egret"),
    ],
)
def test_how_the_schema_stands_is_said_with_the_hint(
    log_lines: LogLines, *, revision: str, level: str, event: str, hint: str | None
) -> None:
    """An error where requests or usage are lost by it, a warning where they are not."""
    log_schema(revision)
    (line,) = log_lines.read()
    assert (line["level"], line["event"], line.get("hint")) == (level, event, hint)


async def test_a_process_that_cannot_be_started_is_tried_again(
    log_lines: LogLines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Out of memory or of process ids for a moment: `egret serve` and its other workers go on."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    telemetry = TelemetrySettings(metrics_port=0)
    settings = Settings(server=ServerSettings(workers=1), telemetry=telemetry)
    running = asyncio.ensure_future(Supervisor(settings).run())
    events: list[object] = []
    async with asyncio.timeout(60):
        while events.count("worker.died") < 2:
            await asyncio.wait([running], timeout=0.05)
            assert not running.done()
            events = [line["event"] for line in log_lines.read()]
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 60)
    assert events.count("worker.not_started") >= 2


TWO_SUPERVISORS = """
import os, signal, tempfile
from sidecar.settings.process import Settings
from sidecar.settings.telemetry import TelemetrySettings
from sidecar.worker.supervisor import Supervisor

settings = Settings(telemetry=TelemetrySettings(metrics_port=0))
two = Supervisor(settings), Supervisor(settings)
print(*os.listdir(tempfile.gettempdir()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_files_of_a_supervisor_that_was_killed_go_with_the_next(tmp_path: Path) -> None:
    """Those of one that lives stay, and those of an earlier release, which locks nothing."""
    earlier = tmp_path / "egret-metrics-earlier"
    earlier.mkdir()
    seen: list[set[str]] = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", TWO_SUPERVISORS],
            env=inherited_environment() | {"TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seen.append(set(run.stdout.split()))

    assert [len(names) for names in seen] == [3, 3]
    assert seen[0] & seen[1] == {earlier.name}
