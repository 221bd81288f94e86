"""Every query of every dashboard, asked of a real Prometheus that scrapes a live stack."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from dashboards.boards import BOARDS
from dashboards.pictures import targets_of
from dashboards.prometheus import Prometheus, running_prometheus
from dashboards.traffic import Gateway, mixed_requests
from tests.support.command_line import Egret
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="session")]

WINDOW = "1m"
PATIENCE_SECONDS = 60
SCRAPE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Watched:
    """What was watched, by whom, since when; `silent` are panels that never had a number."""

    prometheus: Prometheus
    stack: Stack
    silent: set[str]
    began_at: float


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


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def watched(
    session_stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Watched]:
    """A Prometheus that has scraped the stack while requests of every kind came."""
    stack = session_stack
    limited = await stack.new_key("redact")
    limit = ("limits", "set", "--key", limited.key_id)
    prices = ("--input", "1", "--output-tokens", "1", "--from", "2020-01-01")
    await _egret(stack, *limit, "requests/minute=2")
    await _egret(stack, "price", "set", "gpt-4o", *prices)
    keys = stack.keys | {"limited": limited.reveal()}
    gateway = Gateway(stack.client, stack.facts.https_url, stack.tls, keys)
    await mixed_requests(gateway)  # a rate needs series that were there before
    began_at = time.time()
    async with running_prometheus(
        tmp_path_factory.mktemp("prometheus"),
        targets=targets_of(stack.facts),
        scrape_seconds=SCRAPE_SECONDS,
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
        yield Watched(prometheus, stack, silent, began_at)


async def test_each_query_of_each_dashboard_has_something_to_show(watched: Watched) -> None:
    """After requests of every kind; and Prometheus can evaluate every rule on what it scraped."""
    rules = await watched.prometheus.rules()

    assert watched.silent == set()
    assert {rule["health"] for rule in rules} == {"ok"}


async def test_panels_of_times_lead_to_traces_that_the_collector_has(watched: Watched) -> None:
    """Each of their queries, as Grafana asks for its exemplars."""
    led = {
        f"{board.name}: {panel.title}": await watched.prometheus.trace_ids(
            query.with_everything(WINDOW), watched.began_at, time.time()
        )
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
        if query.leads_to_traces
    }
    for trace_id in set().union(*led.values()):
        await watched.stack.trace(trace_id, {"egret.exchange"})

    assert "performance: Time to first token, p50" in led
    assert [name for name, traces in led.items() if not traces] == []
