"""Log lines of this process, read back."""

from __future__ import annotations

import logging

import pytest

from sidecar.telemetry.logs import configure_logs
from tests.support.log_lines import LogLines


@pytest.fixture
def log_lines() -> LogLines:
    """Configure logs at `info` into memory; put back after the test, as for all tests."""
    logging.getLogger().handlers.clear()  # `force` would close pytest's own
    lines = LogLines()
    configure_logs("info", lines.stream)
    return lines
