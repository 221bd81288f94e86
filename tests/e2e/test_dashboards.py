"""Every query of every dashboard, asked of a real Prometheus that scrapes a live stack."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

import pytest

from dashboards.boards import BOARDS
from dashboards.pictures import targets_of
from dashboards.prometheus import Prometheus, running_prometheus
from dashboards.traffic import Gateway, mixed_requests
from tests.support.command_line import Egret
from tests.support.stack import Stack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.any_engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(120),
]

WINDOW = "1m"
PATIENCE_SECONDS = 20.0
SCRAPE_SECONDS = 0.5


async def _egret(stack: Stack, *words: str) -> None:
    ran = await asyncio.to_thread(Egret(stack.facts.postgres_dsn), *words)
    assert ran.code == 0, ran.err


async def _silent(prometheus: Prometheus) -> set[str]:
    """Return the panels with a query that has no number to show."""
    asked = [
        (f"{board.name}: {panel.title}: {query.expression}", query.with_everything(WINDOW))
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
    ]
    return {
        name
        for name, expression in asked
        if not any(
            math.isfinite(value)
            for series in await prometheus.now(expression)
            for _, value in series.points
        )
    }


async def test_each_query_of_each_dashboard_has_something_to_show(
    stack: Stack, tmp_path: Path
) -> None:
    """After requests of every kind; and Prometheus can evaluate every rule on what it scraped."""
    limited = await stack.new_key("redact")
    limit = ("limits", "set", "--key", limited.key_id)
    prices = ("--input", "1", "--output-tokens", "1", "--from", "2020-01-01")
    await _egret(stack, *limit, "requests/minute=2")
    await _egret(stack, "price", "set", "gpt-4o", *prices)
    keys = stack.keys | {"limited": limited.reveal()}
    gateway = Gateway(stack.client, stack.facts.https_url, stack.tls, keys)
    await mixed_requests(gateway)  # a rate needs series that were there before
    targets = targets_of(stack.facts)
    async with running_prometheus(
        tmp_path, targets=targets, scrape_seconds=SCRAPE_SECONDS
    ) as prometheus:
        await asyncio.sleep(2 * SCRAPE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        silent, room = {"not asked yet"}, 2
        while silent and time.monotonic() < deadline:
            room = 5 - room
            await _egret(stack, *limit, f"requests/minute={room}")  # workers hear of a change
            await mixed_requests(gateway)
            await asyncio.sleep(2 * SCRAPE_SECONDS)
            silent = await _silent(prometheus)
        rules = await prometheus.rules()

    assert silent == set()
    assert {rule["health"] for rule in rules} == {"ok"}
