"""Proves that limits do not drift, that a budget holds, and that no abort keeps a slot.

    python -m loadtest.prove_limits [--operations N] [--requests N]

On a real Valkey: random operations of four workers, with calls and answers lost and workers
killed, against a model of the usage; requests that are given up while they ask for a slot;
four processes whose requests all ask at once for a budget that is enough for a hundred. Then, on
behind a real Envoy, clients that leave at any moment.
Prints figures, writes build/bench/prove-limits.json, and exits with 1 if anything does not add up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop
from egret_tools.devstack.databases import running_valkey
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import run_directory
from pydantic import SecretStr
from rich.console import Console
from rich.progress import Progress

from loadtest.limits.abort import abandoned
from loadtest.limits.budget_child import acquire, budget, spending
from loadtest.limits.child import WORKERS, bench_limiter
from loadtest.limits.drift import Drift, Mix, Usage
from loadtest.live_aborts import Left, clients_leave
from loadtest.results import Grid, circumstances, new_console, write_json
from sidecar.domain.report import Clocks
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import open_valkey
from sidecar.storage.valkey_limits import ValkeyLimits

OPERATIONS: Final = 1_000_000
REQUESTS: Final = 10_000
ENOUGH_FOR: Final = 100
COST: Final = 1_000
STARTED_SECONDS: Final = 4.0
PATIENCE_SECONDS: Final = 60.0
"""A call that is given up on a busy machine would be a fault that the model does not know."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Requests allowed by a budget at once, and one after the other from the rest."""

    granted: int
    local: int
    later: int

    @property
    def holds(self) -> bool:
        """Whether all of it went, and no more; without an answer a worker spends its share."""
        most = ENOUGH_FOR if self.local == 0 else 2 * ENOUGH_FOR
        return ENOUGH_FOR <= self.granted + self.later <= most


async def drift(socket: str, mix: Mix, progress: Progress) -> Drift:
    """Do the operations."""
    settings = ValkeySettings(
        url=SecretStr(f"unix://{socket}"), operation_seconds=PATIENCE_SECONDS, pool_size=64
    )
    bar = progress.add_task("operations", total=mix.operations)
    async with open_valkey(settings) as client:
        store = ValkeyLimits(client, operation_seconds=PATIENCE_SECONDS)
        usage = Usage(store, mix, Clocks(time.monotonic, time.time))
        return await usage.run(lambda done: progress.update(bar, completed=done))


async def spend(socket: str, *, requests: int) -> Spent:
    """Have all of the requests ask at once, then as many again one after the other."""
    amount = ENOUGH_FOR * COST
    arguments = (socket, str(requests // WORKERS), str(COST), str(amount))
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadtest.limits.budget_child",
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
    later: Counter[str] = Counter()
    async with bench_limiter(socket) as limiter:
        for _ in range(2 * ENOUGH_FOR):
            await acquire(limiter, spending(budget(amount), COST), later)
    return Spent(counted["granted"], counted["local"], later["granted"])


@dataclass(frozen=True, slots=True)
class Proof:
    """The outcome of each part."""

    drift: Drift
    abandoned: Counter[str]
    spent: Spent
    left: Left

    @property
    def holds(self) -> bool:
        """Whether everything adds up."""
        is_counted = not self.drift.differences and not self.abandoned["held"]
        return self.left.is_right and is_counted and self.spent.holds


async def _prove(given: argparse.Namespace, progress: Progress) -> Proof:
    with (
        tempfile.TemporaryDirectory(prefix="egret-prove-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        async with running_valkey(Children(), directory=run.path / "valkey", logs=run.logs) as url:
            socket = url.removeprefix("unix://")
            found = await drift(socket, Mix(operations=given.operations), progress)
            progress.add_task(f"{given.requests:,} requests given up", total=None)
            left = await abandoned(socket, requests=given.requests)
            progress.add_task(f"{given.requests:,} requests at once", total=None)
            spent = await spend(socket, requests=given.requests)
    progress.add_task(f"{given.requests:,} clients leave", total=None)
    return Proof(found, left, spent, await clients_leave(requests=given.requests))


def main() -> int:
    """Prove it, or print the differences."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.prove_limits", description=__doc__)
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    given = parser.parse_args()
    console = new_console()
    run = circumstances()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        proof = uvloop.run(_prove(given, progress))
    show(proof, console)
    done, left, spent = proof.drift.done, proof.abandoned, proof.spent
    figures = {
        **{name.replace(" ", "_"): float(count) for name, count in done.items()},
        "differences": float(len(proof.drift.differences)),
        **{f"given_up_{name}": float(count) for name, count in left.items()},
        "at_once": float(spent.granted),
        "at_once_local": float(spent.local),
        "later": float(spent.later),
        "unheard": float(proof.left.unheard),
        "slots_left": float(proof.left.taken.slots),
    }
    write_json("prove-limits", figures, run)
    return 0 if proof.holds else 1


def show(proof: Proof, console: Console) -> None:
    """Print the operations and their result."""
    done, left, spent = proof.drift.done, proof.abandoned, proof.spent
    rows = [(name, f"{count:,}") for name, count in sorted(done.items())]
    Grid("Operations of four workers, with faults", ("operation", "count"), rows).show(console)
    rows = [
        ("given up while they asked", f"{left['abandoned']:,}"),
        ("refused", f"{left['refused']:,}"),
        ("let through", f"{left['granted']:,}"),
        ("slots held in the end", f"{left['held']:,}"),
    ]
    Grid("Requests for 200 slots", ("requests", "count"), rows).show(console)
    rows = [
        ("let through at once", f"{spent.granted:,}"),
        ("of all at once, judged without an answer", f"{spent.local:,}"),
        ("let through afterwards", f"{spent.later:,}"),
    ]
    Grid(f"A budget that is enough for {ENOUGH_FOR}", ("requests", "count"), rows).show(console)
    _show_left(proof.left, console)
    for name, difference in proof.drift.differences.items():
        console.print(f"WRONG: {name} is off by {difference:,}")
    if not proof.drift.differences:
        console.print("Every counter equals the usage.")
    if not spent.holds:
        console.print("WRONG: the budget did not hold, or was not used up")


def _show_left(gone: Left, console: Console) -> None:
    found = gone.taken
    rows = [
        *((f"left {moment}", f"{count:,}") for moment, count in sorted(gone.moments.items())),
        ("without a verdict at Envoy", f"{gone.unheard:,}"),
        ("slots still taken", f"{found.slots:,}"),
        ("tokens taken", f"{found.tokens:,}"),
        ("tokens recorded", f"{found.recorded_tokens:,}"),
    ]
    Grid("Clients that leave", ("operation", "count"), rows).show(console)
    if not gone.is_right:
        console.print("WRONG: amounts are still taken and were not used")


if __name__ == "__main__":
    sys.exit(main())
