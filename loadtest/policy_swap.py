"""What a change of policies costs the requests under way: the same load, with and without it.

    python -m loadtest.policy_swap [--rules 500] [--seconds 30] [--rate 200] [--workers 1]

Policies of so many rules are applied one after another while an open loop of requests goes
through Envoy. Prints a table and writes build/bench/policy_swap.json. Exits 1 when a request
failed or no change came into force.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from egret_tools.devstack.child import PartError
from egret_tools.devstack.run_directory import run_directory
from rich.console import Console

from loadtest.bench_stack import BenchStack, running_bench_stack
from loadtest.k6 import put_load
from loadtest.load import OPEN_LOOP_CONNECTIONS, Load, LoadError, Measured, Target
from loadtest.many_rules import many_rules
from loadtest.results import Grid, circumstances, new_console, write_json
from loadtest.texts import chat_body
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect
from sidecar.storage.postgres_policies import apply_policy

POLICY: Final = "default"
"""The policy of the load's key, which has none of its own."""
WARM_UP_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Plan:
    """What is put on the stack, and for how long."""

    engine: str
    workers: int
    rules: int
    rate: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Swap:
    """One change in one worker: seconds until it held, most milliseconds the loop was held."""

    seconds: float
    longest_hold_ms: float


def main() -> int:
    """Measure, show and write; return the exit code."""
    plan = _options()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.policy_swap", *sys.argv[1:]]))
    try:
        quiet, changing, swaps = asyncio.run(_measure(plan, console))
    except (PartError, LoadError) as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    _latencies(quiet, changing).show(console)
    if swaps:
        _swaps(swaps, plan).show(console)
    path = write_json("policy_swap", _figures(quiet, changing, swaps), run)
    console.print(f"\nWritten to {path}.")
    errors = quiet.errors + changing.errors
    if errors or not swaps:
        console.print(f"✗ {errors} requests failed, {len(swaps)} changes.", style="red")
        return 1
    return 0


async def _measure(plan: Plan, console: Console) -> tuple[Measured, Measured, list[Swap]]:
    with tempfile.TemporaryDirectory(prefix="egret-bench-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            async with running_bench_stack(
                (plan.engine,), workers=plan.workers, envoy_threads=1, run=run
            ) as stack:
                log = run.path / plan.engine / "workers.log"
                await _apply(stack, plan, version=1)
                await _until_loaded(log, plan, version=1)
                await _load(stack, plan, body, seconds=WARM_UP_SECONDS)
                with console.status("the load alone …"):
                    quiet = await _load(stack, plan, body, seconds=plan.seconds)
                with console.status("the load, with one change after another …"):
                    changes = asyncio.create_task(_change(stack, plan, log))  # noqa: TID251 - awaited below
                    try:
                        changing = await _load(stack, plan, body, seconds=plan.seconds)
                    finally:
                        changes.cancel()
                        await asyncio.gather(changes, return_exceptions=True)
                return quiet, changing, _swaps_in(log)[plan.workers * 2 :]


async def _load(stack: BenchStack, plan: Plan, body: Path, *, seconds: float) -> Measured:
    target = Target(stack.urls[plan.engine], stack.key, body)
    load = Load("open", OPEN_LOOP_CONNECTIONS, rate=plan.rate)
    return await put_load(load, target=target, seconds=seconds, scratch=body.parent)


async def _change(stack: BenchStack, plan: Plan, log: Path) -> None:
    """Apply one policy after another, each once all workers have the one before."""
    version = 1
    while True:
        version += 1
        await _apply(stack, plan, version=version)
        await _until_loaded(log, plan, version=version)


async def _apply(stack: BenchStack, plan: Plan, *, version: int) -> None:
    async with connect(PostgresSettings(dsn=stack.dsn)) as connection:
        text = many_rules(plan.rules, name=POLICY, seed=version)
        await apply_policy(connection, POLICY, document=text, expected_version=version - 1)


async def _until_loaded(log: Path, plan: Plan, *, version: int) -> None:
    while sum(line["policies"].get(POLICY) == version for line in _loads(log)) < plan.workers:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(POLL_SECONDS)


def _loads(log: Path) -> list[Mapping[str, Any]]:
    lines = log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if '"policies.loaded"' in line]


def _swaps_in(log: Path) -> list[Swap]:
    return [Swap(line["seconds"], line["longest_hold_ms"]) for line in _loads(log)]


def _latencies(quiet: Measured, changing: Measured) -> Grid:
    rows = [
        (name, f"{one.requests}", f"{one.errors}", f"{one.dropped}", f"{one.p50_ms:.2f}",
         f"{one.p99_ms:.2f}", f"{one.max_ms:.1f}")
        for name, one in (("load alone", quiet), ("policies change", changing))
    ]  # fmt: skip
    columns = ("", "requests", "failed", "dropped", "p50 ms", "p99 ms", "max ms")
    return Grid("Requests through Envoy", columns, rows)


def _swaps(swaps: list[Swap], plan: Plan) -> Grid:
    row = (
        f"{plan.rules}",
        f"{len(swaps)}",
        f"{max(swap.seconds for swap in swaps):.2f}",
        f"{max(swap.longest_hold_ms for swap in swaps):.2f}",
    )
    columns = ("rules", "changes", "slowest, s", "loop held at most, ms")
    return Grid("Changes of policy in a worker", columns, [row])


def _figures(quiet: Measured, changing: Measured, swaps: list[Swap]) -> dict[str, float]:
    figures = {"swaps": float(len(swaps))}
    for name, one in (("quiet", quiet), ("swap", changing)):
        figures |= {
            f"{name}.requests": one.requests,
            f"{name}.errors": one.errors,
            f"{name}.p50_ms": one.p50_ms,
            f"{name}.p99_ms": one.p99_ms,
            f"{name}.max_ms": one.max_ms,
        }
    if swaps:
        figures["swap.seconds"] = max(swap.seconds for swap in swaps)
        figures["swap.longest_hold_ms"] = max(swap.longest_hold_ms for swap in swaps)
    return figures


def _options() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m loadtest.policy_swap", description=__doc__)
    parser.add_argument("--rules", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement")
    parser.add_argument("--rate", type=int, default=200, help="requests a second")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", choices=("grpcio", "h2corn"), default="grpcio")
    given = parser.parse_args()
    return Plan(given.engine, given.workers, given.rules, given.rate, given.seconds)


if __name__ == "__main__":
    sys.exit(main())
