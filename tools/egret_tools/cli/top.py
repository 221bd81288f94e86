"""`egret top`: live traffic figures, from the page of metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import typer
from rich.columns import Columns
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sidecar.cli.connection import DEFAULT_RUN, metrics_url
from sidecar.cli.terminal import Output, OutputOption, console, fail, print_json
from sidecar.telemetry.traffic_stats import (
    MetricsSnapshot,
    TrafficStats,
    parse_snapshot,
    traffic_stats,
)

MAX_LINES: Final = 10
FETCH_SECONDS: Final = 5.0
PICTURE_COLUMNS: Final = 120
"""The size of frames without a terminal."""


def top(
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="URL", help="Page of metrics.")
    ] = None,
    every: Annotated[
        float, typer.Option("--every", min=0.2, max=60, help="Seconds between two looks.")
    ] = 2.0,
    run: Annotated[Path, typer.Option("--run", help="Directory of `egret up`.")] = DEFAULT_RUN,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show rates, latencies, verdicts, caches and limits as they are now, until Ctrl-C.

    Reads the page of metrics and nothing else: the one named, else that of the settings, else of
    `egret up`. Into a pipe, or with --output json, it shows one span of time and ends.

    Example: egret top --metrics http://127.0.0.1:9464/metrics
    """
    metrics = metrics or metrics_url(run)
    try:
        asyncio.run(_watch(metrics, every, output))
    except (aiohttp.ClientError, TimeoutError):
        fail(
            f"no answer at {metrics}, and no stack of `egret up` in {run}",
            hint="name a running stack's folder with --run, a page with --metrics URL,"
            " or start `egret serve`",
        )
    except ValueError:
        fail(f"{metrics} is no page of metrics", hint="pass --metrics URL")
    except KeyboardInterrupt:
        return


async def _watch(url: str, every: float, output: Output) -> None:
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as client:
        before = await _page(client, url)
        screen = console(pipe_columns=PICTURE_COLUMNS)
        if output is Output.JSON or not screen.is_terminal:
            await asyncio.sleep(every)
            shown = traffic_stats(before, await _page(client, url))
            if output is Output.JSON:
                print_json(dataclasses.asdict(shown))
            else:
                screen.print(_picture(shown))
            return
        with Live(Text("…"), console=screen, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(every)
                after = await _page(client, url)
                live.update(_picture(traffic_stats(before, after)), refresh=True)
                before = after


async def _page(client: aiohttp.ClientSession, url: str) -> MetricsSnapshot:
    async with client.get(url, headers={"accept": "text/plain"}) as answer:
        return parse_snapshot(await answer.text(), at=time.monotonic())


def _picture(now: TrafficStats) -> Group:
    summary = Table.grid(padding=(0, 3))
    summary.add_row(
        f"{now.requests:.1f} requests/s",
        f"{now.in_flight} being judged",
        f"{now.workers_running} of {now.workers_wanted} workers",
        " ".join(
            f"{name} -" if value is None else f"{name} {value:.2f} ms"
            for name, value in now.overhead_ms.items()
        ),
        f"cache {_share(now.cache_hit_ratio)}",
        f"${now.cost_usd_an_hour:.2f} an hour",
    )
    tables = [
        _table("Outcomes", now.outcomes),
        _table("Why refused or failed", now.errors),
        _table("Guardrails", now.guardrails),
        _table("Providers", now.providers),
        _table("Keys found in", now.tiers),
        _table("Limits", now.limits),
        _table("Faults", now.faults),
    ]
    return Group(Panel(summary, title="egret top", title_align="left"), Columns(tables))


def _table(title: str, rates: Mapping[str, float]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, min_width=30)
    table.add_column()
    table.add_column(justify="right")
    for name, rate in islice(rates.items(), MAX_LINES):
        table.add_row(Text(name), f"{rate:.1f}/s")
    if not rates:
        table.add_row("-", "")
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
