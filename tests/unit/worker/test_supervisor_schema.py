from __future__ import annotations

import pytest

from sidecar.storage.migrate import REVISION
from sidecar.worker.supervisor import log_schema
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
