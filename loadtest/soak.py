"""The whole stack under half of its peak, for long: nothing fails, grows or is left behind.

    python -m loadtest.soak [--minutes 30] [--rate auto] [--markdown]

A closed loop finds the peak, then an open loop sends half of it (or `--rate`): mostly plain
requests, some redacted, blocked, unknown or over their limit, some streams, guarded or not, some
broken off at any moment. Every few seconds memory, open files, tasks, streams and errors are
looked at. Prints tables, writes build/bench/soak.json and .png. Exits 1 when anything is
not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg
import redis.asyncio
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from egret_tools.devstack.stack import StackFacts
from rich.console import Console

from loadtest.load import Load
from loadtest.results import (
    DIRECTORY,
    circumstances,
    new_console,
    prints_failure,
    publish_picture,
    write_json,
    write_section,
)
from loadtest.soaking.samples import Outcome, Sample, Sampler, put_mix
from loadtest.soaking.stack import SoakStack, running_soak_stack
from loadtest.soaking.verdict import (
    Soak,
    is_long_enough,
    kind_grid,
    soak_figures,
    soak_grid,
    soak_plot,
    violations,
)
from loadtest.texts import chat_body

CONNECTIONS: Final = 400
"""Requests the open loop may have under way at once."""
PEAK: Final = Load("peak", 32)
WARM_UP_SECONDS: Final = 5.0
PEAK_SECONDS: Final = 20.0
SHARE: Final = 0.5
LEAST_MINUTES: Final = 0.5
SAMPLE_SECONDS: Final = 5.0
WARM_UP_SHARE: Final = 1 / 3
"""Of the soak: caches, pools and the allocator's arenas fill; slopes are taken of the rest."""
QUIET_SECONDS: Final = 8.0
"""Usage is flushed every second, and written in batches."""
PATIENCE_SECONDS: Final = 90.0
"""Requests without a reported end are declared lost after `SETTLE_SECONDS`."""
_BUSY: Final = ("in_flight", "egret_streams", "requests_active")


@dataclass(frozen=True, slots=True)
class Plan:
    """Options of the soak; a `rate` of None is half of the peak."""

    minutes: float
    rate: int | None


@prints_failure
def main() -> int:
    """Soak, show and write; return the exit code."""
    options = _options()
    rate = None if options.rate == "auto" else int(options.rate)
    plan = Plan(options.minutes, rate)
    console = new_console()
    run = circumstances()
    soak, peak_rps = asyncio.run(_soak(plan, console))
    faults = violations(soak)
    kind_grid(soak).show(console)
    grid = soak_grid(soak, faults)
    grid.show(console)
    name = "soak"
    figures = {"peak_rps": peak_rps, **soak_figures(soak), "violations": len(faults)}
    path, picture = write_json(name, figures, run), DIRECTORY / f"{name}.png"
    soak_plot(soak, title=f"{soak.outcome.rps:,.0f} requests/s", path=picture)
    console.print(f"\nWritten to {path} and {picture}.")
    if options.markdown:
        write_section(name, f"{run.as_sentence()}\n\n{grid.as_markdown()}")
        publish_picture(name)
    if not is_long_enough(soak):
        console.print("Too short to see a leak: the slope of memory was not checked.")
    for fault in faults:
        console.print(f"✗ {fault}", markup=False, style="red")
    return 1 if faults else 0


async def _soak(plan: Plan, console: Console) -> tuple[Soak, float]:
    with tempfile.TemporaryDirectory(prefix="egret-soak-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with (
            run_directory(Path(place) / "provider") as provider_run,
            run_directory(Path(place) / "run") as run,
        ):
            async with (
                running_soak_stack(run=run, provider_run=provider_run) as stack,
                aiohttp.ClientSession() as client,
            ):
                soaking = _Soaking(plan, stack, body, Sampler(stack.facts, client), console)
                try:
                    return await soaking.run(run)
                finally:
                    _keep_logs(run)


class _Soaking:
    """Puts the load on, and looks at the stack meanwhile."""

    def __init__(
        self, plan: Plan, stack: SoakStack, body: Path, sampler: Sampler, console: Console
    ) -> None:
        self._plan = plan
        self._stack = stack
        self._body = body
        self._sampler = sampler
        self._console = console

    async def run(self, run: RunDirectory) -> tuple[Soak, float]:
        await self._put(Load("warm-up", 16), WARM_UP_SECONDS, run)
        peak_rps = 0.0
        rate = self._plan.rate
        if rate is None:
            peak_rps = (await self._put(PEAK, PEAK_SECONDS, run)).rps
            rate = max(1, round(peak_rps * SHARE))
        warm = await self._settled()
        records = await _records(self._stack.facts)
        self._console.print(
            f"peak {peak_rps:,.0f}/s, soak at {rate}/s for {self._plan.minutes:g} minutes"
        )
        load = Load("soak", CONNECTIONS, rate=rate)
        seconds = self._plan.minutes * 60
        sending = asyncio.ensure_future(self._put(load, seconds, run))
        try:
            samples = await self._watch(sending)
        finally:
            sending.cancel()
            await asyncio.wait({sending})
        quiet = await self._settled()
        all_records = await _records(self._stack.facts)
        soak = Soak(
            outcome=sending.result(),
            samples=samples,
            warm=warm,
            quiet=quiet,
            records={name: count - records[name] for name, count in all_records.items()},
            slots=await _slots(self._stack.facts),
            warm_up_seconds=seconds * WARM_UP_SHARE,
        )
        return soak, peak_rps

    async def _put(self, load: Load, seconds: float, run: RunDirectory) -> Outcome:
        return await put_mix(load, self._stack, body=self._body, seconds=seconds, scratch=run.logs)

    async def _watch(self, sending: asyncio.Future[Outcome]) -> list[Sample]:
        samples: list[Sample] = []
        while not sending.done():
            samples.append(await self._sampler.take())
            await asyncio.wait({sending}, timeout=SAMPLE_SECONDS)
        return samples

    async def _settled(self) -> Sample:
        """Wait until nothing is under way any more, or for as long as is bearable."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        await asyncio.sleep(QUIET_SECONDS)
        while True:
            sample, slots = await self._sampler.take(), await _slots(self._stack.facts)
            is_quiet = not slots and not any(sample.counts[name] for name in _BUSY)
            if is_quiet or time.monotonic() > deadline:
                return sample
            await asyncio.sleep(1)


async def _records(facts: StackFacts) -> Counter[str]:
    connection = await asyncpg.connect(facts.postgres_dsn)
    try:
        rows = await connection.fetch("SELECT ended, count(*) AS count FROM usage GROUP BY ended")
    finally:
        await connection.close()
    return Counter({row["ended"]: row["count"] for row in rows})


async def _slots(facts: StackFacts) -> int:
    """Return how many slots are held by requests that are not declared lost."""
    client = redis.asyncio.Redis.from_url(facts.valkey_url, decode_responses=True)
    now_us = int(time.time() * 1_000_000)
    held: set[str] = set()
    try:
        async for name in client.scan_iter("egret:limit:*/concurrent/*"):
            members = await client.zrangebyscore(name, now_us, "+inf")
            held.update(str(member) for member in members)
    finally:
        await client.aclose()
    connection = await asyncpg.connect(facts.postgres_dsn)
    try:
        rows = await connection.fetch("SELECT request_id FROM usage WHERE ended = 'lost'")
    finally:
        await connection.close()
    return len(held - {row["request_id"] for row in rows})


def _keep_logs(run: RunDirectory) -> None:
    kept = DIRECTORY / "soak-logs"
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("k6.log", "envoy.log"):
        shutil.copy(run.logs / name, kept / name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="1 is a smoke test")
    parser.add_argument("--rate", default="auto", help="requests a second; auto: half of the peak")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    if options.minutes < LEAST_MINUTES:
        parser.error(f"--minutes is at least {LEAST_MINUTES}")
    return options


if __name__ == "__main__":
    sys.exit(main())
