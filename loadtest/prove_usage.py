"""Proves that usage is recorded once and correctly, whatever fails meanwhile.

    python -m loadtest.prove_usage [--requests N] [--concurrency N] [--calm] [--source SOURCE]

Sends a mix of requests through a whole stack. Meanwhile PostgreSQL is stopped and started again, a
worker is killed, and Envoy is killed and started again. Then every record is compared with the
answer of the provider. Prints figures, writes build/bench/prove-usage.json, and exits with 1 if
anything does not add up.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import psutil
import yaml
from egret_tools.devstack.databases import serving_postgres
from egret_tools.devstack.envoy import EnvoyRun, running_envoy
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from egret_tools.devstack.stack import RunningStack, StackFacts, StackOptions, running_stack
from rich.console import Console
from rich.progress import Progress

from loadtest.results import Grid, circumstances, new_console, write_json
from loadtest.usage.ledger import ProducedTokens, Recorded, Verdict, compare
from loadtest.usage.load import Load
from loadtest.usage.trailers import counted_by_envoy
from sidecar.settings.stores import UsageSource

REQUESTS: Final = 100_000
CONCURRENCY: Final = 32
SETTLE_SECONDS: Final = 20.0
"""No part takes longer than a second or two; a record missing after this is lost."""
QUIET_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 180.0
PAGE: Final = 20_000
EVENT_MS: Final = 5

_RECORDS: Final = """
SELECT request_id, provider_request_id, input_tokens, output_tokens, is_estimated, ended
FROM usage
"""
_SUMS: Final = """
SELECT (SELECT (count(*), COALESCE(sum(input_tokens), 0), COALESCE(sum(output_tokens), 0))
            FROM usage)
     = (SELECT (COALESCE(sum(requests), 0)::bigint, COALESCE(sum(input_tokens), 0),
                COALESCE(sum(output_tokens), 0)) FROM usage_by_day)
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """Options of the run."""

    requests: int
    concurrency: int
    is_calm: bool = False
    source: UsageSource = UsageSource.ACCESS_LOG
    settle_seconds: float = SETTLE_SECONDS


class _World:
    """The stack, and the faults that can be injected."""

    def __init__(self, stack: RunningStack, run: RunDirectory, parts: AsyncExitStack) -> None:
        self.facts: StackFacts = stack.facts
        self._run = run
        self._parts = parts
        self._envoy = run.path

    async def stop_postgres(self) -> None:
        """End it, so that connections are refused."""
        pid_file = self._run.data / "postgres" / "data" / "postmaster.pid"
        await _end(int(pid_file.read_text().split()[0]), signal.SIGINT)

    async def start_postgres(self) -> None:
        """Start it again on the same data."""
        await self._parts.enter_async_context(
            serving_postgres(
                Children(), directory=self._run.data / "postgres", logs=self._run.logs
            )
        )

    async def kill_worker(self) -> None:
        """Kill one without a warning; the supervisor starts another."""
        workers = psutil.Process(self.facts.workers_pid).children()
        await _end(workers[0].pid, signal.SIGKILL)

    async def kill_envoy(self) -> None:
        """Kill it without a warning, with all that it had not sent.

        It is known by its configuration: another stack of the same process has an Envoy too.
        """
        config = str(self._envoy / "envoy.yaml")
        (pid,) = (
            process.pid
            for process in psutil.Process().children(recursive=True)
            if process.name() == "envoy" and config in process.cmdline()
        )
        await _end(pid, signal.SIGKILL)

    async def start_envoy(
        self, load: Load, change: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Start another with the same configuration, or a changed one; send the rest to it."""
        config = (self._envoy / "envoy.yaml").read_text()
        if change is not None:
            changed = yaml.safe_load(config)
            change(changed)
            config = yaml.safe_dump(changed, sort_keys=False)
        self._envoy = self._envoy / "envoy-again"
        self._envoy.mkdir()
        run = EnvoyRun(self._envoy, self._run.logs)
        address = await self._parts.enter_async_context(
            running_envoy(Children(), run=run, config=config)
        )
        load.url = f"http://127.0.0.1:{address.http_port}"


async def _end(pid: int, number: signal.Signals) -> None:
    process = psutil.Process(pid)
    process.send_signal(number)
    await asyncio.to_thread(psutil.wait_procs, [process], 30)


async def prove(proof: Proof, console: Console) -> tuple[Verdict, Load]:
    """Run the load, break things, and compare."""
    async with AsyncExitStack() as parts:
        place = parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-prove-"))
        run = parts.enter_context(run_directory(Path(place) / "run"))
        options = StackOptions(
            traces=False,
            worker_settings={
                "EGRET_USAGE__SETTLE_SECONDS": str(proof.settle_seconds),
                "EGRET_USAGE__SOURCE": proof.source.value,
                "EGRET_TELEMETRY__LOG_LEVEL": "warning",
            },
        )
        stack = await parts.enter_async_context(running_stack(options, run=run))
        world = _World(stack, run, parts)
        await _slow_down(world.facts)
        load = Load(world.facts.url, world.facts.key.get_secret_value())
        if proof.source is UsageSource.AI_PROTOCOL_MANAGER:
            await world.start_envoy(load, counted_by_envoy)
        with Progress(console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("requests", total=proof.requests)
            sending = asyncio.ensure_future(
                load.run(proof.requests, concurrency=proof.concurrency)
            )
            faults = [] if proof.is_calm else _faults(world, load)
            while not sending.done():
                progress.update(bar, completed=load.done)
                while faults and load.done >= faults[0][0] * proof.requests:
                    _, name, inflict = faults.pop(0)
                    console.print(f"after {load.done:,} requests: {name}")
                    await inflict()
                await asyncio.sleep(0.05)
            await sending
        console.print("waiting until everything is settled")
        recorded = await _settled(world.facts, seconds=2 * proof.settle_seconds + QUIET_SECONDS)
        produced = await _produced(world.facts)
        verdict = compare(recorded, produced, answered=load.answered)
        return await _with_sums(verdict, world.facts), load


async def _slow_down(facts: StackFacts) -> None:
    """Have streams take some time, so that they can be broken off."""
    async with (
        aiohttp.ClientSession(facts.mock_debug_url) as debug,
        debug.post("/delay", json={"event_ms": EVENT_MS}) as answer,
    ):
        answer.raise_for_status()


def _faults(world: _World, load: Load) -> list[tuple[float, str, Callable[[], Awaitable[None]]]]:
    """Return the faults by the share of the requests after which they are injected."""
    return [
        (0.2, "PostgreSQL stopped", world.stop_postgres),
        (0.3, "a worker killed", world.kill_worker),
        (0.4, "PostgreSQL started", world.start_postgres),
        (0.5, "another worker killed", world.kill_worker),
        (0.7, "Envoy killed", world.kill_envoy),
        (0.7, "Envoy started", lambda: world.start_envoy(load)),
    ]


async def _settled(facts: StackFacts, *, seconds: float) -> list[Recorded]:
    """Wait until no new record comes, for longer than the detection of lost ones takes."""
    connection = await asyncpg.connect(facts.postgres_dsn)
    try:
        quiet_since, count = time.monotonic(), -1
        deadline = quiet_since + PATIENCE_SECONDS
        while time.monotonic() - quiet_since < seconds:
            found: int = await connection.fetchval("SELECT count(*) FROM usage")
            if found != count:
                quiet_since, count = time.monotonic(), found
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        return [Recorded(**dict(row)) for row in await connection.fetch(_RECORDS)]
    finally:
        await connection.close()


async def _produced(facts: StackFacts) -> list[ProducedTokens]:
    rows: list[ProducedTokens] = []
    async with aiohttp.ClientSession(facts.mock_debug_url) as debug:
        while True:
            query = {"start": str(len(rows)), "limit": str(PAGE)}
            async with debug.get("/produced", params=query) as answer:
                page = await answer.json()
            rows += [
                ProducedTokens(row["request_id"], row["input_tokens"], row["output_tokens"])
                for row in page
            ]
            if len(page) < PAGE:
                return rows


async def _with_sums(verdict: Verdict, facts: StackFacts) -> Verdict:
    connection = await asyncpg.connect(facts.postgres_dsn)
    try:
        is_equal = await connection.fetchval(_SUMS)
    finally:
        await connection.close()
    if is_equal:
        return verdict
    return Verdict(verdict.figures, (*verdict.faults, "the sums by day differ from the rows"))


def main() -> int:
    """Prove it, or print the differences."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.prove_usage", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    parser.add_argument("--calm", action="store_true", help="break nothing")
    parser.add_argument(
        "--source",
        type=UsageSource,
        choices=[one for one in UsageSource if one is not UsageSource.OFF],
        metavar="SOURCE",
        default=UsageSource.ACCESS_LOG,
        help="access_log, ai_protocol_manager or answers",
    )
    given = parser.parse_args()
    console = new_console()
    run = circumstances()
    proof = Proof(given.requests, given.concurrency, given.calm, given.source)
    verdict, load = asyncio.run(prove(proof, console))
    show(verdict, load, console)
    suffix = "" if given.source is UsageSource.ACCESS_LOG else f"-{given.source.value}"
    write_json(f"prove-usage{suffix}", {**verdict.figures, "faults": len(verdict.faults)}, run)
    return 1 if verdict.faults else 0


def show(verdict: Verdict, load: Load, console: Console) -> None:
    """Print the answers, the records and the faults."""
    seen = [(name, f"{count:,}") for name, count in sorted(load.statuses.items())]
    Grid("Answers to clients", ("request: answer", "count"), seen).show(console)
    figures = [(name.replace("_", " "), f"{n:,}") for name, n in verdict.figures.items()]
    Grid("Records", ("figure", "value"), figures).show(console)
    for fault in verdict.faults:
        console.print(f"WRONG: {fault}")
    if not verdict.faults:
        console.print("Every record that is not an estimate equals the answer of the provider.")


if __name__ == "__main__":
    sys.exit(main())
