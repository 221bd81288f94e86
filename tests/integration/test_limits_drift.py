"""`make prove-limits` in small: what it proves in full, on a real Valkey."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from loadtest.limits.abort import abandoned
from loadtest.limits.drift import Mix, Usage
from sidecar.domain.report import Clocks
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import open_valkey
from sidecar.storage.valkey_limits import ValkeyLimits
from tests.support.live_servers import valkey_server

pytestmark = pytest.mark.stack

PATIENCE_SECONDS = 30.0
"""A call that is given up on a busy machine would be a fault that the model does not know."""


async def test_twenty_thousand_operations_leave_no_drift(tmp_path: Path) -> None:
    """The scripts count as the model in memory does (`tests/property/test_limits_drift.py`)."""
    server = valkey_server(tmp_path)
    await server.start()
    url = SecretStr(f"unix://{tmp_path / 'valkey.sock'}")
    settings = ValkeySettings(url=url, operation_seconds=PATIENCE_SECONDS, pool_size=32)
    clocks = Clocks(time.monotonic, time.time)
    try:
        async with open_valkey(settings) as client:
            store = ValkeyLimits(client, operation_seconds=PATIENCE_SECONDS)
            drift = await Usage(store, Mix(operations=20_000, deaths=300), clocks).run()
    finally:
        await server.aclose()
    assert drift.differences == {}
    assert drift.done["granted"] > 1_000
    assert drift.done["granted locally"] > 0
    assert drift.done["workers killed"] > 0


async def test_requests_that_are_given_up_while_they_ask_hold_no_slot(tmp_path: Path) -> None:
    """Waiting for their turn, for an answer, or let through a moment ago."""
    server = valkey_server(tmp_path)
    await server.start()
    try:
        counted = await abandoned(str(tmp_path / "valkey.sock"), requests=3_000)
    finally:
        await server.aclose()
    assert counted["held"] == 0
    assert counted["granted"] > 0
    assert counted["abandoned"] > 0
