"""Egret beside other gateways: one machine, one run, one provider, one load.

    python -m loadtest.bench_peers [--seconds 5] [--rounds 2] [--markdown]

`make bench-peers` installs them below build/peers. Every load is put on each gateway in
turn, in rounds. Prints a table and writes build/bench/bench-peers.json. Exits 1 when a request
failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.envoy import EnvoyRun, listening_envoy
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from rich.console import Console

from loadtest.bench_envoy import port_address, provider_listener
from loadtest.bench_stack import HERE, Gateway, StackOptions, running_gateways
from loadtest.figures import BASELINE, errors_of, per_request_us
from loadtest.generators import put_load
from loadtest.load import Load, LoadError, Target
from loadtest.peers import (
    Peer,
    ferrogw,
    guarded_portkey,
    is_installed,
    litellm,
    portkey,
    running_peer,
)
from loadtest.processes import cpu_seconds, resident_mb
from loadtest.results import Grid, Report, prints_failure, publish
from loadtest.targets import write_targets
from loadtest.texts import chat_body

LOADS: Final = (Load("c1", 1), Load("c16", 16))
WARM_UP: Final = Load("warm-up", 4)
WARM_UP_SECONDS: Final = 2.0
SWITCHED_ON: Final = "key, default policy"


@dataclass(frozen=True, slots=True)
class Runner:
    """A gateway under load, and the processes whose CPU time it takes."""

    name: str
    switched_on: str
    target: Target
    pids: tuple[int, ...]


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    report = Report("bench-peers", "peers", for_page=options.markdown)
    if not is_installed():
        raise LoadError("Other gateways are not installed; run `make bench-peers`.")
    figures, switched_on = asyncio.run(_measure(options.seconds, options.rounds, report.console))
    report.write(figures, peers_grid(figures, switched_on))
    if options.markdown:
        publish("bench-peers")
        write_targets()
    return report.exit_code(errors_of(figures))


def peers_grid(figures: Mapping[str, float], switched_on: Mapping[str, str]) -> Grid:
    """Return a line a gateway and load."""
    rows = [
        [
            name,
            on,
            str(load.connections),
            *(
                f"{figures[f'{name}.{load.name}.{figure}']:,.{digits}f}"
                for figure, digits in _SHOWN
            ),
            f"{figures[f'{name}.rss_mb']:,.0f}",
        ]
        for load in LOADS
        for name, on in switched_on.items()
    ]
    columns = ("gateway", "switched on", "c", "RPS", "p50 ms", "p95 ms", "p99 ms",
               "CPU µs", "RSS MB")  # fmt: skip
    return Grid("Gateways with the same provider and load", columns, rows, labels=2)


_SHOWN: Final = (("rps", 0), ("p50_ms", 2), ("p95_ms", 2), ("p99_ms", 2), ("cpu_us", 0))


async def _measure(
    seconds: float, rounds: int, console: Console
) -> tuple[dict[str, float], dict[str, str]]:
    series: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="egret-bench-") as place:
        body = Path(place) / "body.json"
        body.write_bytes(chat_body())
        with run_directory(Path(place) / "run") as run:
            async with _running(run, body) as runners:
                for runner in runners:
                    await _put(WARM_UP, runner, seconds=WARM_UP_SECONDS, scratch=run.path)
                for number in range(rounds):
                    for load in LOADS:
                        for runner in runners if number % 2 == 0 else runners[::-1]:
                            with console.status(f"{load.name} on {runner.name} …"):
                                found = await _put(load, runner, seconds=seconds, scratch=run.path)
                            for name, value in found.items():
                                key = f"{runner.name}.{load.name}.{name}"
                                series.setdefault(key, []).append(value)
                memory = {
                    f"{one.name}.rss_mb": sum(resident_mb(pid) for pid in one.pids)
                    for one in runners
                }
    figures = {
        key: sum(values) if key.endswith(".errors") else statistics.median(values)
        for key, values in series.items()
    }
    return {**figures, **memory}, {one.name: one.switched_on for one in runners}


async def _put(load: Load, runner: Runner, *, seconds: float, scratch: Path) -> dict[str, float]:
    before = cpu_seconds(runner.pids)
    measured = await put_load(load, target=runner.target, seconds=seconds, scratch=scratch)
    spent = cpu_seconds(runner.pids) - before
    return {
        "rps": measured.rps,
        "p50_ms": measured.p50_ms,
        "p95_ms": measured.p95_ms,
        "p99_ms": measured.p99_ms,
        "cpu_us": per_request_us(spent, measured.requests),
        "errors": measured.errors,
    }


@asynccontextmanager
async def _running(run: RunDirectory, body: Path) -> AsyncIterator[list[Runner]]:
    """Start the provider, Egret, and every other gateway."""
    children, place = Children(), run.path / "peers"
    place.mkdir()
    async with AsyncExitStack() as parts:
        provider = await parts.enter_async_context(running_provider(children, place, run))
        options = StackOptions(provider=port_address(provider))
        gateways = await parts.enter_async_context(
            running_gateways((HERE,), run=run, options=options)
        )
        peers: list[Peer] = []
        for way in (
            litellm(place, provider_port=provider, is_guarded=False),
            litellm(place, provider_port=provider, is_guarded=True),
            portkey(provider_port=provider),
            ferrogw(place, provider_port=provider),
        ):
            running = running_peer(children, way, body=body, place=place)
            peers.append(await parts.enter_async_context(running))
            if way.name == "Portkey":
                peers.append(guarded_portkey(peers[-1], provider_port=provider))
        yield [
            *_egret(gateways, body),
            *(Runner(one.name, one.switched_on, one.target, one.processes()) for one in peers),
        ]


def _egret(gateways: Mapping[str, Gateway], body: Path) -> Sequence[Runner]:
    """Return Envoy alone, and Egret with its Envoy."""
    targets = (
        (BASELINE, "Envoy alone", "nothing"),
        (HERE.name, "Egret", SWITCHED_ON),
    )
    return [
        Runner(
            name,
            on,
            Target(gateways[listener].url, gateways[listener].key, body),
            (*gateways[listener].processes, gateways[listener].envoy_pid),
        )
        for listener, name, on in targets
    ]


@asynccontextmanager
async def running_provider(
    children: Children, place: Path, run: RunDirectory
) -> AsyncIterator[int]:
    """Run an Envoy that answers at once, over a port, and yield that."""
    config = {
        "admin": {"address": port_address(0)},
        "static_resources": {"listeners": [provider_listener(port_address(0))]},
    }
    directory = place / "provider"
    directory.mkdir()
    logs = run.logs
    async with listening_envoy(
        children, run=EnvoyRun(directory, logs, threads=1), config=json.dumps(config)
    ) as envoy:
        yield envoy.ports["provider"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_peers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=2, help="each figure is a median of these")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
