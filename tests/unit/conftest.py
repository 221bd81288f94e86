"""Log lines of this process, read back; what configures logging is undone after each test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from sidecar.telemetry.logs import configure_logs
from tests.support.log_lines import LogLines


@pytest.fixture
def log_lines() -> Iterator[LogLines]:
    """Configure logs at `info` into memory."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # `force` would close pytest's own
    lines = LogLines()
    configure_logs("info", lines.stream)
    yield lines
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
