"""docs/telemetry.md has every event that Egret writes into its log."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sidecar.storage.finding_counts import FindingCounts
from sidecar.storage.key_activity import KeyActivity
from sidecar.telemetry.names import LogEvent

ROOT: Final = Path(__file__).resolve().parents[2]
LOGS: Final = (
    (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8").partition("\n## Logs")[2]
)
EVENT: Final = re.compile(r"[a-z_]+\.[a-z_]+")
LEVELS: Final = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
ROW: Final = re.compile(r"^\| (`[a-z_.`, ]+`) \| ", re.MULTILINE)


def _literal_events() -> Iterator[str]:
    """Return the events of all calls that log one by its name."""
    for module in (ROOT / "sidecar").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=level), args=[ast.Constant(value=str(event)), *_]
                ) if level in LEVELS and EVENT.fullmatch(event):
                    yield event
                case _:
                    pass


def test_every_event_has_a_row() -> None:
    """Whoever reads a line can look up what it says."""
    schema = {f"schema.{state}" for state in ("none", "behind", "current", "ahead")}
    counted = (KeyActivity.name, FindingCounts.name)
    batches = {f"{name}.{state}" for name in counted for state in ("not_written", "lost")}
    named = {value for name, value in vars(LogEvent).items() if not name.startswith("_")}
    rows = {event for row in ROW.findall(LOGS) for event in re.findall(r"`([^`]+)`", row)}

    assert len(named) > 5
    assert (named | schema | batches | set(_literal_events())) - rows == set()
