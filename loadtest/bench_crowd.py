"""How long clients wait whose long bodies come together, and those who come in the middle.

    python -m loadtest.bench_crowd [--against REV] [--bodies 16] [--rounds 4] [--markdown]

A worker with every local guardrail receives new conversations of 1 MB, all at once. Then it
receives as many new ones again and, once they are there, the next turns of a few of the first,
and a new conversation of another organization.
With REV both receive the same bodies, one after the other. Prints the medians of the rounds and
writes build/bench/bench-crowd.json. Exits 1 when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Final

import aiohttp
import uvloop
from egret_tools.conversations import Conversation, even_conversation
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import run_directory

from loadtest.bench_against import check_out
from loadtest.bench_envoy import port_address
from loadtest.bench_peers import running_provider
from loadtest.bench_stack import Gateway, Side, StackOptions, running_gateways
from loadtest.conversations.clients import TIMEOUT
from loadtest.guardrail_pass import LOCAL_TYPES, policy_of
from loadtest.results import ROOT, Grid, Report, prints_failure, publish

BODY_BYTES: Final = 1 << 20
BESIDE: Final = 2
"""Next turns that come in the middle."""
IN_THE_MIDDLE: Final = 0.25
"""Of the time that all first turns took, after which they come."""
NOW: Final = "egret"
REV: Final = "rev"
POLICY: Final = "every"
OTHER: Final = "other"
"""The policy of another organization, with the same guardrails."""
COLUMNS: Final = {
    "first_ms": "first turns, ms",
    "last_ms": "the last of them, ms",
    "beside_ms": "next turns beside others, ms",
    "other_ms": "a first turn of another organization beside them, ms",
    "failed": "not served",
}


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_crowd", description=__doc__)
    parser.add_argument("--against", metavar="REV", help="a revision, such as a tag or a commit")
    parser.add_argument("--bodies", type=int, default=16, help="at once")
    parser.add_argument("--rounds", type=int, default=4, help="each figure is their median")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    report = Report("bench-crowd", "crowd", for_page=options.markdown)
    sides = [Side(NOW, ROOT)]
    if options.against:
        # With the packages of this checkout: some guardrails need extras, which REV's lack.
        sides.append(Side(REV, check_out(options.against)))
    figures = uvloop.run(_measure(sides, bodies=options.bodies, rounds=options.rounds))
    labels = {NOW: "this checkout", REV: "REV"}
    rows = [
        [labels[side.name], *(f"{figures[f'{side.name}.{name}']:,.0f}" for name in COLUMNS)]
        for side in sides
    ]
    title = f"{options.bodies} new conversations of 1 MB at once"
    report.write(figures, Grid(title, ("side", *COLUMNS.values()), rows))
    if options.markdown:
        publish("bench-crowd")
    return report.exit_code(sum(figures[f"{side.name}.failed"] for side in sides))


async def _measure(sides: Sequence[Side], *, bodies: int, rounds: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        (peers := run.path / "peers").mkdir()
        async with running_provider(Children(), peers, run) as provider:
            options = StackOptions(
                provider=port_address(provider),
                policies="---\n".join(
                    policy_of(LOCAL_TYPES, name=name, size=BODY_BYTES) for name in (POLICY, OTHER)
                ),
            )
            async with running_gateways(sides, run=run, options=options) as gateways:
                waits: dict[str, list[float]] = defaultdict(list)
                count = 2 * bodies + 1
                for number in range(rounds):
                    talks = [  # new ones in each round
                        even_conversation(BODY_BYTES, seed=seed, turns=2)
                        for seed in range(count * number, count * (number + 1))
                    ]
                    for side in sides if number % 2 else sides[::-1]:
                        found = await _crowd(gateways[side.name], talks[:bodies], talks[bodies:])
                        for name, value in found.items():
                            waits[f"{side.name}.{name}"].append(value)
    return {
        name: sum(found) if name.endswith(".failed") else median(found)
        for name, found in waits.items()
    }


async def _crowd(
    gateway: Gateway, first: Sequence[Conversation], more: Sequence[Conversation]
) -> Mapping[str, float]:
    """Send the first turns of *first*, then those of *more* with others in the middle.

    These are a few next turns, and the last of *more*, which is of another organization.
    """
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=TIMEOUT
    ) as client:

        async def wait(body: bytes, *, key: str = POLICY) -> tuple[float, bool]:
            began_at = time.monotonic()
            headers = {"authorization": f"Bearer {gateway.keys[key].get_secret_value()}"}
            async with client.post(gateway.url, data=body, headers=headers) as answer:
                await answer.read()
                return (time.monotonic() - began_at) * 1e3, answer.ok

        *crowd, stranger = more
        alone = await asyncio.gather(*(wait(one.body(1)) for one in first))
        last = max(waited for waited, _ in alone)
        others = asyncio.gather(*(wait(one.body(1)) for one in crowd))
        await asyncio.sleep(last / 1e3 * IN_THE_MIDDLE)
        other, *beside = await asyncio.gather(
            wait(stranger.body(1), key=OTHER), *(wait(one.body(2)) for one in first[:BESIDE])
        )
        every = (*alone, other, *beside, *await others)
    return {
        "first_ms": fmean(waited for waited, _ in alone),
        "last_ms": last,
        "beside_ms": fmean(waited for waited, _ in beside),
        "other_ms": other[0],
        "failed": sum(not is_served for _, is_served in every),
    }


if __name__ == "__main__":
    sys.exit(main())
