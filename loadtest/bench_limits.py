"""Whether a limit holds under many workers, and what asking costs.

    python -m loadtest.bench_limits [--seconds 60] [--markdown]

Four processes with 200 clients each ask for one limit, far more than it lets through. Prints a
table and writes build/bench/bench-limits.json; exits with 1 if the limit did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis.asyncio
from rich.progress import Progress

from loadtest.figures import percentile
from loadtest.limit_child import PRINCIPAL, WORKERS, bench_limit, bench_limiter, claims
from loadtest.results import Grid, circumstances, new_console, write_json, write_section
from sidecar.embedded.child import Children
from sidecar.embedded.run_directory import run_directory
from sidecar.embedded.valkey import running_valkey
from sidecar.limits.lease import LARGEST_SHARE
from sidecar.settings import inherited_environment

CLIENTS: Final = 200
AMOUNT: Final = 12_000
BURST: Final = 400
PLENTY: Final = 1_000_000_000
TAKES: Final = 50_000
CALLS: Final = 5_000
KEYS: Final = 20_000
STARTED_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """What came of one limit: what may be let through in the time, at least and at most."""

    counted: Counter[str]
    least: float
    most: float

    @property
    def over(self) -> float:
        """How much more was let through than the amount; negative for less."""
        return self.counted["granted"] / (self.least / 0.99) - 1


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench_limits", *sys.argv[1:]]))
    with Progress(console=console) as progress:
        held, costs = asyncio.run(_measured(options, progress))
    figures = {
        **costs,
        "over_admission": held.over,
        **{name: float(count) for name, count in held.counted.items()},
        "least": held.least,
        "most": held.most,
    }
    grid = _grid(figures, options.seconds)
    grid.show(console)
    console.print(f"\nWritten to {write_json('bench-limits', figures, run)}.")
    if options.markdown:
        write_section("limits", f"{run.as_sentence()}\n\n{grid.as_markdown()}")
    return 0 if held.least <= held.counted["granted"] <= held.most else 1


async def _measured(
    options: argparse.Namespace, progress: Progress
) -> tuple[Held, dict[str, float]]:
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        async with running_valkey(Children(), directory=run.path / "valkey", logs=run.logs) as url:
            socket = url.removeprefix("unix://")
            progress.add_task("what asking costs", total=None)
            costs = {**await _costs(socket), **await _memory(socket)}
            progress.add_task(f"{WORKERS} workers, {CLIENTS} clients each", total=None)
            held = await _held(socket, seconds=options.seconds)
    return held, costs


async def _held(socket: str, *, seconds: float) -> Held:
    arguments = (socket, str(CLIENTS), str(seconds), str(AMOUNT), str(BURST))
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadtest.limit_child",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=inherited_environment(),
        )
        for _ in range(WORKERS)
    ]
    await asyncio.sleep(STARTED_SECONDS)
    answers = await asyncio.gather(*(child.communicate(b"\n") for child in children))
    counted: Counter[str] = Counter()
    for answer, _ in answers:
        counted.update(json.loads(answer))
    allowed = AMOUNT * seconds / 60
    bound = BURST + WORKERS * (AMOUNT // LARGEST_SHARE)
    return Held(counted, least=0.99 * allowed, most=allowed + bound)


async def _costs(socket: str) -> dict[str, float]:
    """Return what one more check adds to a request, with a lease and with a call."""
    async with bench_limiter(socket) as limiter:
        asked = claims(bench_limit(PLENTY, PLENTY))
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
            one = claims(bench_limit(PLENTY + number + 1, PLENTY))
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
            pipeline.set(f"egret:limit:{{org_{number}}}:team_{number}/requests/minute/0a1b2c3d",
                         "1800000000000000", px=60_000)  # fmt: skip
        await pipeline.execute()
    after = (await client.info("memory"))["used_memory"]
    await client.flushall()
    await client.aclose()
    return {"valkey_mb_100k_keys": (after - before) / KEYS * 100_000 / 1e6}


_ROWS: Final[tuple[tuple[str, str, Callable[[float], str]], ...]] = (
    ("lease_added_p50_us", "added with a lease, p50 µs", lambda value: f"{value:.1f}"),
    ("lease_added_p99_us", "added with a lease, p99 µs", lambda value: f"{value:.1f}"),
    ("leased_share", "share of requests that asked nobody", lambda value: f"{value:.4f}"),
    ("valkey_added_p50_us", "added with a call of Valkey, p50 µs", lambda value: f"{value:.0f}"),
    ("valkey_added_p99_us", "added with a call of Valkey, p99 µs", lambda value: f"{value:.0f}"),
    ("valkey_calls_per_s", "calls a second, one after the other", lambda value: f"{value:,.0f}"),
    ("valkey_mb_100k_keys", "MB in Valkey for 100,000 limits", lambda value: f"{value:.1f}"),
    ("asked", "asked by 4 workers with 200 clients each", lambda value: f"{value:,.0f}"),
    ("least", "to be let through at least", lambda value: f"{value:,.0f}"),
    ("granted", "let through", lambda value: f"{value:,.0f}"),
    ("most", "to be let through at most", lambda value: f"{value:,.0f}"),
    ("calls", "of all, after a call of Valkey", lambda value: f"{value:,.0f}"),
    ("local", "of all, while Valkey did not answer in time", lambda value: f"{value:,.0f}"),
)


def _grid(figures: dict[str, float], seconds: float) -> Grid:
    rows = [[words, shown(figures[name])] for name, words, shown in _ROWS]
    return Grid(f"{AMOUNT:,} requests a minute, for {seconds:g} s", ("limits", "figure"), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_limits", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the limit is asked")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
