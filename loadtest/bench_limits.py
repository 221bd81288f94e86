"""Whether a limit holds under many workers, and the cost of a check.

    python -m loadtest.bench_limits [--seconds 60] [--markdown]

Four processes with 200 clients each ask for one limit, far more than it lets through; then again,
with Valkey stopped halfway and started again with an empty memory. Prints tables and writes
build/bench/bench-limits.json; exits with 1 if the limit did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import redis.asyncio
from egret_tools.cli.bench import percentile
from egret_tools.devstack.databases import running_valkey
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from rich.progress import Progress

from loadtest.limits.child import PRINCIPAL, WORKERS, bench_limit, bench_limiter, checks
from loadtest.results import Grid, Report
from sidecar.limits.leases import LARGEST_SHARE
from sidecar.limits.limiter import TEND_SECONDS
from sidecar.settings.sections import inherited_environment

CLIENTS: Final = 200
AMOUNT: Final = 12_000
BURST: Final = 400
PLENTY: Final = 1_000_000_000
TAKES: Final = 50_000
CALLS: Final = 5_000
KEYS: Final = 20_000
STATE: Final = "1800000000000000/600/1800000000000000/1800000000000000"
"""Of one sliding limit, as limits.lua writes it."""
STARTED_SECONDS: Final = 5.0
DOWN_SECONDS: Final = 1.0
UNCOUNTED_SECONDS: Final = 2 * TEND_SECONDS
"""Workers that were cut off report their usage within this time."""


@dataclass(frozen=True, slots=True)
class Held:
    """The outcome of one limit: allowed requests, with the least and the most permitted."""

    counted: dict[str, float]
    least: float
    most: float

    @property
    def holds(self) -> bool:
        """Whether as much was let through as may be."""
        return self.least <= self.counted["granted"] <= self.most

    def figures(self, prefix: str = "") -> dict[str, float]:
        """Return them by name."""
        over = self.counted["granted"] / (self.least / 0.99) - 1
        all_of_it = {**self.counted, "least": self.least, "most": self.most}
        return {f"{prefix}{name}": one for name, one in {**all_of_it, "over": over}.items()}


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    report = Report("bench-limits", "limits", for_page=options.markdown)
    with Progress(console=report.console) as progress:
        calm, restarted, costs = asyncio.run(_measured(options, progress))
    figures = {**costs, **calm.figures(), **restarted.figures("restarted_")}
    report.write(figures, _costs_grid(figures), _held_grid(figures, options.seconds))
    return 0 if calm.holds and restarted.holds else 1


async def _measured(
    options: argparse.Namespace, progress: Progress
) -> tuple[Held, Held, dict[str, float]]:
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        progress.add_task("cost of a check", total=None)
        async with AsyncExitStack() as servers:
            socket = await _start(servers, run)
            costs = {**await _costs(socket), **await _memory(socket)}
        progress.add_task(f"{WORKERS} workers, {CLIENTS} clients each", total=None)
        calm = await _held(run, seconds=options.seconds, restarts=False)
        progress.add_task("the same, with Valkey restarted", total=None)
        restarted = await _held(run, seconds=options.seconds, restarts=True)
    return calm, restarted, costs


async def _start(servers: AsyncExitStack, run: RunDirectory) -> str:
    """Start a Valkey that knows nothing, always at the same place."""
    directory = run.path / "valkey"
    shutil.rmtree(directory, ignore_errors=True)
    url = await servers.enter_async_context(
        running_valkey(Children(), directory=directory, logs=run.logs)
    )
    return url.removeprefix("unix://")


async def _held(run: RunDirectory, *, seconds: float, restarts: bool) -> Held:
    async with AsyncExitStack() as servers:
        socket = await _start(servers, run)
        arguments = (socket, str(CLIENTS), str(seconds), str(AMOUNT), str(BURST))
        children = [await _child(arguments) for _ in range(WORKERS)]
        await asyncio.sleep(STARTED_SECONDS)
        asking = asyncio.gather(*(child.communicate(b"\n") for child in children))
        if restarts:
            await asyncio.sleep(seconds / 2)
            await servers.aclose()
            await asyncio.sleep(DOWN_SECONDS)
            await _start(servers, run)
        counted = [json.loads(answer) for answer, _ in await asking]
    total = {name: sum(one[name] for one in counted) for name in counted[0]}
    # From the first request to the last answer, of all of them together.
    took = max(one["ended"] for one in counted) - min(one["began"] for one in counted)
    bursts = 2 if restarts else 1
    bound = bursts * BURST + WORKERS * (AMOUNT // LARGEST_SHARE)
    return Held(
        {name: total[name] for name in ("asked", "granted", "calls", "local")},
        least=0.99 * AMOUNT * seconds / 60,
        most=AMOUNT * (took + UNCOUNTED_SECONDS) / 60 + bound,
    )


async def _child(arguments: tuple[str, ...]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadtest.limits.child",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=inherited_environment(),
    )


async def _costs(socket: str) -> dict[str, float]:
    """Return the cost of one check more for a request, with a lease and with a call."""
    async with bench_limiter(socket) as limiter:
        asked = checks(bench_limit(PLENTY, PLENTY))
        leased: list[float] = []
        for _ in range(TAKES):
            started_at = time.perf_counter()
            outcome = limiter.take(PRINCIPAL, asked, member="r")
            if isinstance(outcome, Awaitable):
                await outcome
            else:
                leased.append((time.perf_counter() - started_at) * 1e6)
            if len(leased) % 100 == 0:
                await asyncio.sleep(0)  # refills run beside the requests
        called: list[float] = []
        for number in range(CALLS):
            # A limit that was never used has no lease.
            one = checks(replace(bench_limit(PLENTY, PLENTY), id=f"call_{number}"))
            started_at = time.perf_counter()
            outcome = limiter.take(PRINCIPAL, one, member="r")
            if isinstance(outcome, Awaitable):
                await outcome
            called.append((time.perf_counter() - started_at) * 1e6)
    return {
        "lease_added_p50_us": percentile(leased, 50),
        "lease_added_p99_us": percentile(leased, 99),
        "leased_share": len(leased) / TAKES,
        "valkey_added_p50_us": percentile(called, 50),
        "valkey_added_p99_us": percentile(called, 99),
        "valkey_calls_per_s": 1e6 / (sum(called) / len(called)),
    }


async def _memory(socket: str) -> dict[str, float]:
    """Return the bytes that Valkey holds for a limit of its own, from many of them."""
    client = redis.asyncio.Redis(unix_socket_path=socket)
    before = (await client.info("memory"))["used_memory"]
    async with client.pipeline(transaction=False) as pipeline:
        for number in range(KEYS):
            name = f"egret:limit:{{org_{number}}}:team_{number}/requests/minute/0a1b2c3d"
            pipeline.set(name, STATE, px=60_000)
        await pipeline.execute()
    after = (await client.info("memory"))["used_memory"]
    await client.flushall()
    await client.aclose()
    return {"valkey_mb_100k_keys": (after - before) / KEYS * 100_000 / 1e6}


_ROWS: Final[tuple[tuple[str, str, Callable[[float], str]], ...]] = (
    ("lease_added_p50_us", "added with a lease, p50 µs", lambda value: f"{value:.1f}"),
    ("lease_added_p99_us", "added with a lease, p99 µs", lambda value: f"{value:.1f}"),
    ("leased_share", "share of requests without a call of Valkey", lambda value: f"{value:.4f}"),
    ("valkey_added_p50_us", "added with a call of Valkey, p50 µs", lambda value: f"{value:.0f}"),
    ("valkey_added_p99_us", "added with a call of Valkey, p99 µs", lambda value: f"{value:.0f}"),
    ("valkey_calls_per_s", "calls a second, one after the other", lambda value: f"{value:,.0f}"),
    ("valkey_mb_100k_keys", "MB in Valkey for 100,000 limits", lambda value: f"{value:.1f}"),
)

_HELD: Final[tuple[tuple[str, str], ...]] = (
    ("asked", "asked"),
    ("least", "to be let through at least"),
    ("granted", "let through"),
    ("most", "to be let through at most"),
    ("calls", "of all, after waiting for Valkey"),
    ("local", "of all, while Valkey did not answer"),
)


def _costs_grid(figures: dict[str, float]) -> Grid:
    rows = [[words, shown(figures[name])] for name, words, shown in _ROWS]
    return Grid("Cost of a limit", ("limits", "figure"), rows)


def _held_grid(figures: dict[str, float], seconds: float) -> Grid:
    rows = [
        [words, f"{figures[name]:,.0f}", f"{figures[f'restarted_{name}']:,.0f}"]
        for name, words in _HELD
    ]
    columns = (f"{WORKERS} workers, {CLIENTS} clients each", "requests", "Valkey restarted")
    return Grid(f"{AMOUNT:,} requests a minute, for {seconds:g} s", columns, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_limits", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the limit is asked")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
