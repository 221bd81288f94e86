"""How much of a conversation several workers know, by the worker that Envoy chooses for a turn.

    python -m loadtest.bench_sessions [--conversations 20] [--markdown]

Each side receives every turn of the same conversations of a coding agent, one turn of all after
the other, over a few connections. Envoy balances by load, or by a header that names the session;
or it balances by load, and the workers share their entries through Valkey.
Prints a table and writes build/bench/bench-sessions.json. Exits 1 when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop
from egret_tools.conversations import Conversation, Shape, conversation
from egret_tools.devstack.databases import running_valkey
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import run_directory

from loadtest.bench_stack import Side, running_gateways
from loadtest.conversations.clients import SETTLE_SECONDS, Contestant, contestant, table_counts
from loadtest.figures import per_request_us
from loadtest.load import LoadError
from loadtest.results import ROOT, Grid, Report, prints_failure, publish

HEADER: Final = "x-session-id"
WORKERS: Final = (1, 2, 4, 8)
TURNS: Final = 30
THINK_SECONDS: Final = 0.2
"""Between two turns of a conversation."""
WAYS: Final = {"load": "by load", "session": "by session", "shared": "by load, shared"}
"""In which Envoy chooses a worker for a turn. With the last one the workers share entries."""


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_sessions", description=__doc__)
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    report = Report("bench-sessions", "sessions", for_page=options.markdown)
    figures = uvloop.run(_measure(options.conversations))
    rows = [
        [
            str(workers),
            *(f"{figures[f'{way}{workers}.known_share']:.2f}" for way in WAYS),
            *(f"{figures[f'{way}{workers}.cpu_us']:,.0f}" for way in WAYS),
        ]
        for workers in WORKERS
    ]
    columns = (
        "workers",
        *(f"known, {one}" for one in WAYS.values()),
        *(f"CPU µs, {one}" for one in WAYS.values()),
    )
    grid = Grid("Share of the bytes that the chosen worker knew, and the CPU time", columns, rows)
    report.write(figures, grid)
    if options.markdown:
        publish("bench-sessions")
    return 1 if figures["errors"] else 0


async def _measure(count: int) -> dict[str, float]:
    talks = [conversation(Shape.AGENT, seed=seed, turns=TURNS) for seed in range(count)]
    figures: dict[str, float] = {"errors": 0}
    for workers in WORKERS:  # one after the other: all would be too many for PostgreSQL
        with (
            tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
            run_directory(Path(place) / "run") as run,
        ):
            async with (
                running_valkey(Children(), directory=run.path / "valkey", logs=run.logs) as valkey,
                running_gateways(sides := _sides(valkey, workers), run=run) as gateways,
            ):
                for side in sides:
                    target = contestant(side.name, gateways[side.name])
                    figures |= await _converse(target, talks, figures["errors"])
    return figures


def _sides(valkey: str, workers: int) -> list[Side]:
    shared = {
        "EGRET_EXCHANGE__SHARED_MESSAGES_SECONDS": "600",
        "EGRET_VALKEY__URL": valkey,
        "EGRET_CACHE__L2_SECRET": secrets.token_urlsafe(32),
    }
    return [
        Side(
            f"{way}{workers}",
            ROOT,
            workers=workers,
            session_header=HEADER if way == "session" else "",
            settings=shared if way == "shared" else {},
        )
        for way in WAYS
    ]


async def _converse(
    target: Contestant, talks: Sequence[Conversation], errors: float
) -> dict[str, float]:
    """Send each turn of all conversations; return the use of the table and the CPU time."""
    sessions = [{HEADER: f"session-{number}"} for number in range(len(talks))]
    before, used = await table_counts(target), target.cpu()[0]
    sent = 0
    for turn in range(1, TURNS + 1):
        bodies = [one.body(turn) for one in talks]
        sent += sum(map(len, bodies))
        errors += await target.send(bodies, sessions)
        await asyncio.sleep(THINK_SECONDS)
    await asyncio.sleep(SETTLE_SECONDS)
    after, used = await table_counts(target), target.cpu()[0] - used
    if before is None or after is None:
        raise LoadError("the workers have no table of known messages")
    use = after - before
    return {
        "errors": errors,
        f"{target.name}.known_share": use.known_bytes / sent,
        f"{target.name}.hit_rate": use.hit_rate,
        f"{target.name}.cpu_us": per_request_us(used, len(talks) * TURNS),
    }


if __name__ == "__main__":
    sys.exit(main())
