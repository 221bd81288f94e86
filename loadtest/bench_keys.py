"""Cost of a key look-up in each cache, and the time until a revoked key is refused.

    python -m loadtest.bench_keys [--keys N] [--quick] [--markdown]

Prints a table and writes build/bench/bench-keys.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.cli.bench import percentile
from egret_tools.devstack.run_directory import run_directory
from rich.console import Console
from rich.progress import Progress

from loadtest.keys.stack import (
    BUDGETS,
    KeyServers,
    bench_caches,
    hit_rate,
    import_bench_keys,
    key_ids,
    log_to_stderr,
    running_key_servers,
    until_shared,
)
from loadtest.processes import resident_mb
from loadtest.results import ROOT, Grid, Report
from sidecar.admin.keys import revoke_key
from sidecar.domain.report import CacheTier
from sidecar.keys.cache import Hit
from sidecar.settings.sections import inherited_environment
from sidecar.storage.pool import connect
from sidecar.worker.keys import WorkerKeys

KEYS: Final = 1_000_000
QUICK_KEYS: Final = 50_000
HITS: Final = 100_000
HOT_KEYS: Final = 1_000
LOADS: Final = 2_000
COUNTED: Final = 1_000
WATCHERS: Final = 4
REVOCATIONS: Final = 200
HELD: Final = {"rss_mb_10k": 10_000, "rss_mb_100k": 100_000}
L2_SETTLES_SECONDS: Final = 0.2

Figures = dict[str, float]


class WrongTierError(Exception):
    """Another cache answered than the one to be measured."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A process of `loadtest.keys.child`."""

    process: asyncio.subprocess.Process

    def send(self, *lines: str) -> None:
        """Send lines."""
        assert self.process.stdin is not None  # noqa: S101 - it has a pipe
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode("ascii"))

    async def answer(self) -> str:
        """Return its next line.

        Raises:
            ChildProcessError: it has ended; why, it has written to standard error.
        """
        assert self.process.stdout is not None  # noqa: S101 - it has a pipe
        line = await self.process.stdout.readline()
        if not line:
            raise ChildProcessError("loadtest.keys.child has ended")
        return line.decode("ascii").strip()


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    log_to_stderr()
    report = Report("bench-keys", "keys", for_page=options.markdown)
    figures = asyncio.run(_measured(options.keys or KEYS, report.console))
    report.write(figures, _grid(figures))
    return 0


async def _measured(count: int, console: Console) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
        Progress(console=console) as progress,
    ):
        ids = key_ids(count)
        async with running_key_servers(run) as servers:
            task = progress.add_task(f"import {count:,} keys", total=count)
            started_at = time.perf_counter()
            await import_bench_keys(
                servers, ids, on_written=lambda line: progress.update(task, completed=line)
            )
            figures: Figures = {"keys": count, "import_s": time.perf_counter() - started_at}
            async with bench_caches(servers.settings()) as keys:
                progress.add_task("look-ups", total=None)
                await until_shared(keys, ids[LOADS + 2 * COUNTED + 1])
                figures |= await _look_ups(keys, ids[:LOADS])
                figures |= await _queries(servers, keys, ids[LOADS : LOADS + 2 * COUNTED + 1])
            figures |= await _revocations(servers, ids[-REVOCATIONS:], progress)
            for name, held in HELD.items():
                if held <= count:
                    progress.add_task(f"memory of {held:,} keys", total=None)
                    figures[name] = await _memory(servers, ids[:held])
            progress.add_task("hit rate", total=None)
            figures["hit_rate_zipf"] = await hit_rate(ids)
    return figures


async def _look_ups(keys: WorkerKeys, ids: Sequence[str]) -> Figures:
    misses = await _loads(keys, ids, CacheTier.STORE)
    await asyncio.sleep(L2_SETTLES_SECONDS)
    keys.cache.flush()
    l2_hits = await _loads(keys, ids, CacheTier.L2)
    l1_hits = _peeks(keys, ids[:HOT_KEYS], HITS)
    return {
        "l1_hit_p50_us": percentile(l1_hits, 50),
        "l1_hit_p99_us": percentile(l1_hits, 99),
        "l2_hit_p50_us": percentile(l2_hits, 50),
        "l2_hit_p99_us": percentile(l2_hits, 99),
        "miss_p50_us": percentile(misses, 50),
        "miss_p99_us": percentile(misses, 99),
    }


async def _loads(keys: WorkerKeys, ids: Sequence[str], tier: CacheTier) -> Sequence[float]:
    """Return microseconds of each load, one after the other.

    Raises:
        WrongTierError: not *tier* answered.
    """
    taken: list[float] = []
    for key_id in ids:
        started_at = time.perf_counter_ns()
        loaded = await keys.cache.load(key_id, now=time.monotonic)
        taken.append((time.perf_counter_ns() - started_at) / 1000)
        if loaded.tier is not tier or loaded.record is None:
            raise WrongTierError(f"{loaded.tier} answered, not {tier}")
    return taken


def _peeks(keys: WorkerKeys, ids: Sequence[str], count: int) -> Sequence[float]:
    """Return microseconds of each peek, the clock's own time included.

    Raises:
        WrongTierError: a key was not in the process.
    """
    taken: list[float] = []
    for key_id in itertools.islice(itertools.cycle(ids), count):
        started_at = time.perf_counter_ns()
        found = keys.cache.peek(key_id, now=time.monotonic())
        taken.append((time.perf_counter_ns() - started_at) / 1000)
        if not isinstance(found, Hit):
            raise WrongTierError("a hot key was not in the process")
    return taken


async def _queries(servers: KeyServers, keys: WorkerKeys, ids: Sequence[str]) -> Figures:
    """Return statements a look-up, as the server counts them for the workers' login."""
    hot, cold, last = ids[:COUNTED], ids[COUNTED:-1], ids[-1]
    await _loads(keys, hot, CacheTier.STORE)
    await asyncio.sleep(L2_SETTLES_SECONDS)
    keys.cache.flush()
    counts = [await servers.statements()]
    await _loads(keys, hot, CacheTier.L2)
    _peeks(keys, hot, COUNTED)
    counts.append(await servers.statements())
    await _loads(keys, cold, CacheTier.STORE)
    counts.append(await servers.statements())
    await asyncio.gather(*(keys.cache.load(last, now=time.monotonic) for _ in range(COUNTED)))
    counts.append(await servers.statements())
    hits, misses, together = (after - before for before, after in itertools.pairwise(counts))
    return {
        "queries_per_hit": hits / (2 * COUNTED),
        "queries_per_miss": misses / COUNTED,
        "queries_per_1000_concurrent_misses": together,
    }


async def _revocations(servers: KeyServers, ids: Sequence[str], progress: Progress) -> Figures:
    """Return milliseconds from sending the UPDATE to the refusal in the last process."""
    task = progress.add_task(f"{len(ids)} revocations", total=len(ids))
    taken: list[float] = []
    async with AsyncExitStack() as stack:
        watchers = [
            await stack.enter_async_context(_child("watch", servers)) for _ in range(WATCHERS)
        ]
        connection = await stack.enter_async_context(connect(servers.owner))
        for key_id in ids:
            for watcher in watchers:
                watcher.send(key_id)
            for watcher in watchers:
                await watcher.answer()
            sent_at = time.monotonic()
            await revoke_key(connection, key_id)
            refused_at = [float(await watcher.answer()) for watcher in watchers]
            taken.append((max(refused_at) - sent_at) * 1000)
            progress.advance(task)
    return {
        "revocation_p50_ms": percentile(taken, 50),
        "revocation_p99_ms": percentile(taken, 99),
        "revocation_max_ms": max(taken),
    }


async def _memory(servers: KeyServers, ids: Sequence[str]) -> float:
    """Return the resident MiB of a process that holds *ids*.

    Raises:
        WrongTierError: it holds fewer.
    """
    async with _child("hold", servers, max_keys=len(ids)) as child:
        child.send(str(len(ids)), *ids)
        held = int(await child.answer())
        if held != len(ids):
            raise WrongTierError(f"{held} keys are held, not {len(ids)}")
        return resident_mb(child.process.pid)


@asynccontextmanager
async def _child(
    job: str, servers: KeyServers, *, max_keys: int = 10_000
) -> AsyncGenerator[_Child]:
    settings = servers.settings(max_keys=max_keys)
    secret = settings.cache.l2_secret
    assert secret is not None  # noqa: S101 - the bench's settings have one
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.keys.child", job,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={
            **inherited_environment(),
            "EGRET_POSTGRES__DSN": servers.worker_dsn,
            "EGRET_VALKEY__URL": servers.valkey_url,
            **BUDGETS,
            "EGRET_CACHE__L2_SECRET": secret.get_secret_value(),
            "EGRET_CACHE__MAX_KEYS": str(max_keys),
        },
    )  # fmt: skip
    try:
        yield _Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


_ROWS: Final = (
    ("in the process (L1), p50 µs", "l1_hit_p50_us", 2),
    ("in the process (L1), p99 µs", "l1_hit_p99_us", 2),
    ("in Valkey (L2), p50 µs", "l2_hit_p50_us", 0),
    ("in Valkey (L2), p99 µs", "l2_hit_p99_us", 0),
    ("in PostgreSQL alone, p50 µs", "miss_p50_us", 0),
    ("in PostgreSQL alone, p99 µs", "miss_p99_us", 0),
    ("statements a hit, L1 or L2", "queries_per_hit", 3),
    ("statements a miss", "queries_per_miss", 3),
    ("statements for 1,000 misses at once, one key", "queries_per_1000_concurrent_misses", 0),
    ("revoked to refused by the last of 4 workers, p50 ms", "revocation_p50_ms", 1),
    ("revoked to refused by the last of 4 workers, p99 ms", "revocation_p99_ms", 1),
    ("revoked to refused by the last of 4 workers, max ms", "revocation_max_ms", 1),
    ("RSS MB of a process that holds 10,000 keys", "rss_mb_10k", 0),
    ("RSS MB of a process that holds 100,000 keys", "rss_mb_100k", 0),
    ("hit rate of L1, Zipf 1.1 over all keys", "hit_rate_zipf", 3),
    ("import, s", "import_s", 1),
)


def _grid(figures: Figures) -> Grid:
    rows = [
        [title, f"{figures[key]:,.{digits}f}"] for title, key, digits in _ROWS if key in figures
    ]
    return Grid(f"{figures['keys']:,.0f} keys", ("key look-ups", "figure"), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_keys", description=__doc__)
    count = parser.add_mutually_exclusive_group()
    count.add_argument("--keys", type=int, help=f"how many ({KEYS:,})")
    count.add_argument(
        "--quick", dest="keys", action="store_const", const=QUICK_KEYS,
        help=f"{QUICK_KEYS:,} keys: a smoke test, without the memory of 100,000",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
