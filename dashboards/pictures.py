"""Draw every dashboard from a run of the whole stack: `make dashboard-pictures`.

    python -m dashboards.pictures [--seconds 60] [--to docs/images]

Starts the stack and Prometheus with what is shipped, sends a mixture of requests, takes a worker
down on the way, and asks the dashboards' own queries.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import psutil
from egret_tools.devstack.processes import PartError
from egret_tools.devstack.run_directory import run_directory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from rich.console import Console
from rich.progress import Progress

from dashboards.board import Board
from dashboards.boards import BOARDS
from dashboards.picture import Lines, draw, legend
from dashboards.prometheus import Prometheus, running_prometheus
from dashboards.set_up import change_a_key, set_up
from dashboards.traffic import Gateway, mixed_requests

SCRAPE_SECONDS: Final = 2.0
WINDOW: Final = "10s"
"""What stands for Grafana's rate interval: five scrapes."""
POINTS: Final = 120
ROUNDS_A_CHANGE: Final = 10
ROOT: Final = Path(__file__).parents[1]


def main() -> int:
    """Draw; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.pictures", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(_draw_all(options.seconds, options.to))
    except PartError as error:
        Console(stderr=True).print(f"✗ {error}", markup=False, style="red")
        return 1
    return 0


async def _draw_all(seconds: float, to: Path) -> None:
    async with AsyncExitStack() as parts:
        place = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-pictures-")))
        run = parts.enter_context(run_directory(place / "run"))
        stack = await parts.enter_async_context(running_stack(StackOptions(), run=run))
        keys = await set_up(stack.facts.postgres_dsn, log=run.logs / "workers.log")
        prometheus = await parts.enter_async_context(
            running_prometheus(
                place, targets=targets_of(stack.facts), scrape_seconds=SCRAPE_SECONDS
            )
        )
        client = await parts.enter_async_context(aiohttp.ClientSession())
        tls = ssl.create_default_context(cafile=str(stack.facts.ca_file))
        began_at = time.time()
        await _run(Gateway(client, stack.facts.https_url, tls, keys), stack.facts, seconds)
        ended_at = time.time()
        for board in BOARDS:
            data = await answers(prometheus, board, began_at, ended_at)
            draw(board, data, to / f"dashboard-{board.name}.png")


async def _run(gateway: Gateway, facts: StackFacts, seconds: float) -> None:
    """Send requests for so long; a worker is killed when a third of the time is over."""
    async with aiohttp.ClientSession(facts.mock_debug_url) as debug:
        (await debug.post("/delay", json={"ms": 40, "event_ms": 5})).raise_for_status()
    ends_at = time.monotonic() + seconds
    is_whole = True
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("requests of every kind", total=seconds)
        rounds = 0
        while (left := ends_at - time.monotonic()) > 0:
            progress.update(bar, completed=seconds - left)
            if is_whole and left < seconds * 2 / 3:
                _kill_a_worker(facts.workers_pid)
                is_whole = False
            rounds += 1
            await mixed_requests(gateway, seed=rounds)
            if rounds % ROUNDS_A_CHANGE == 0:
                key_id = gateway.keys["limited"].split("_")[1]
                await change_a_key(facts.postgres_dsn, key_id, requests=30 + rounds % 7)
            await asyncio.sleep(0.3)


def _kill_a_worker(supervisor: int) -> None:
    workers = [
        child
        for child in psutil.Process(supervisor).children(recursive=True)
        if "sidecar.worker" in child.cmdline()
    ]
    workers[0].kill()


def targets_of(facts: StackFacts) -> dict[str, str]:
    """Return what there is to scrape, by job."""
    urls = {"egret": facts.metrics_url, "envoy": facts.admin_url}
    return {job: urlsplit(url).netloc for job, url in urls.items()}


async def answers(
    prometheus: Prometheus, board: Board, start: float, end: float
) -> dict[str, Lines]:
    """Return the series of each panel by its title, with their names."""
    found: dict[str, Lines] = {}
    for panel in board.panels:
        found[panel.title] = [
            (legend(query.legend, series.labels), series)
            for query in panel.queries
            for series in await prometheus.between(
                query.with_everything(WINDOW, span=f"{round(end - start)}s"),
                start,
                end,
                step=(end - start) / POINTS,
            )
        ]
    return found


if __name__ == "__main__":
    sys.exit(main())
