"""How much a thousand, a hundred thousand and ten million requests a second need.

    python -m loadtest.capacity [--markdown]

Takes the CPU time of a request from the published result of `make bench` (docs/figures), measures
what an operation costs PostgreSQL and Valkey, plays a worker's key cache and leases, and
multiplies. Prints tables, writes build/bench/capacity.json and, if told, docs/capacity.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from egret_tools.devstack.child import PartError
from egret_tools.devstack.run_directory import run_directory

from loadtest.bench import ENGINES
from loadtest.capacities.model import ROWS, Measured, Need, Scale, need, saturation
from loadtest.capacities.servers import ServerCosts, server_costs
from loadtest.capacities.traffic import (
    KeyTraffic,
    LimitTraffic,
    estimated_loads,
    key_traffic,
    limit_traffic,
)
from loadtest.keys.stack import log_to_stderr
from loadtest.results import (
    ROOT,
    Grid,
    NotPublishedError,
    circumstances,
    new_console,
    published,
    write_json,
    write_section,
)
from sidecar.settings.stores import CacheSettings

SCALES: Final = (
    Scale(1_000, keys=10_000, teams=100),
    Scale(100_000, keys=1_000_000, teams=10_000),
    Scale(10_000_000, keys=10_000_000, teams=100_000),
)
TEAMS_AN_ORGANIZATION: Final = 10
LOAD: Final = "c16"
PAGE: Final = ROOT / "docs" / "capacity.md"


def main() -> int:
    """Reckon, show and write; return the exit code."""
    options = _options()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.capacity", *sys.argv[1:]]))
    log_to_stderr()
    try:
        engines = [measured_of(engine) for engine in ENGINES]
        costs = asyncio.run(_costs())
    except (PartError, NotPublishedError) as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    grids = [_costs_grid(costs)]
    figures: dict[str, float] = {
        "usage_row_us": costs.usage_row,
        "key_load_us": costs.key_load,
        "shared_key_us": costs.shared_key,
        "limit_call_us": costs.limit_call,
    }
    for measured in engines:
        with console.status(f"a worker of {measured.engine} at each scale …"):
            grids += _engine_grids(measured, costs, figures)
    for grid in grids:
        grid.show(console)
    console.print(f"\nWritten to {write_json('capacity', figures, run)}.")
    if options.markdown:
        tables = "\n\n".join(f"**{grid.title}**\n\n{grid.as_markdown()}" for grid in grids)
        source = published("bench")
        text = (
            f"{run.as_sentence()} CPU times of requests: `{source['command']}` on"
            f" {source['machine']}, commit {source['commit']}, started {source['started']}."
        )
        write_section("capacity", f"{text}\n\n{tables}", page=PAGE)
    return 0


def measured_of(engine: str) -> Measured:
    """Return what `make bench` has published of *engine*."""
    found = published("bench")
    return Measured(
        engine,
        worker_us=float(found[f"{engine}.{LOAD}.worker_cpu_us"]),
        envoy_us=float(found[f"{engine}.{LOAD}.envoy_cpu_us"]),
        worker_mb=float(found[f"{engine}.rss_mb"]),
    )


async def _costs() -> ServerCosts:
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        return await server_costs(run)


def _engine_grids(
    measured: Measured, costs: ServerCosts, figures: dict[str, float]
) -> tuple[Grid, Grid, Grid]:
    rate = measured.worker_rps
    played: list[tuple[Scale, KeyTraffic, LimitTraffic]] = [
        (
            scale,
            asyncio.run(key_traffic(rate=rate, keys=scale.keys)),
            limit_traffic(
                rate=rate, teams=scale.teams, teams_an_organization=TEAMS_AN_ORGANIZATION
            ),
        )
        for scale in SCALES
    ]
    needs = [
        need(scale, measured, costs, keys=keys, limits=limits) for scale, keys, limits in played
    ]
    for scale, found in zip(SCALES, needs, strict=True):
        values = {name: float(getattr(found, name)) for name in Need.__dataclass_fields__}
        figures |= {f"{measured.engine}.{scale.rps}.{name}": one for name, one in values.items()}
    return (
        _needs_grid(measured, needs),
        _traffic_grid(measured, played),
        _saturation_grid(measured, costs, needs[1]),
    )


def _costs_grid(costs: ServerCosts) -> Grid:
    rows = [
        ["PostgreSQL: a usage record, in batches of a thousand", f"{costs.usage_row:.0f}"],
        ["PostgreSQL: a key with all that is above it", f"{costs.key_load:.0f}"],
        ["Valkey: a key", f"{costs.shared_key:.0f}"],
        ["Valkey: a call for limits", f"{costs.limit_call:.0f}"],
    ]
    return Grid("CPU time of a server for one operation", ("operation", "CPU µs"), rows)


def _needs_grid(measured: Measured, needs: list[Need]) -> Grid:
    rows = [[words, *(f"{of(one):,.{digits}f}" for one in needs)] for words, of, digits in ROWS]
    title = (
        f"{measured.engine}: {measured.worker_us:.0f} µs a request in a worker,"
        f" {measured.envoy_us:.0f} µs in Envoy"
    )
    return Grid(title, ("needed", *(f"{scale.rps:,}/s" for scale in SCALES)), rows)


def _traffic_grid(
    measured: Measured, played: list[tuple[Scale, KeyTraffic, LimitTraffic]]
) -> Grid:
    rate, capacity = measured.worker_rps, CacheSettings().max_keys
    rows = [
        [
            f"{scale.rps:,}/s",
            f"{scale.keys:,}",
            f"{keys.loads_a_second:,.0f}",
            f"{estimated_loads(rate=rate, keys=scale.keys, capacity=capacity):,.0f}",
            f"{scale.teams:,}",
            f"{limits.waiting / rate:.1%}",
            f"{limits.ahead:,.0f}",
            f"{limits.corrections:,.0f}",
        ]
        for scale, keys, limits in played
    ]
    columns = (
        "scale", "keys", "key loads a second", "by arithmetic", "teams",
        "requests that wait for a limit", "leases filled a second", "corrections a second",
    )  # fmt: skip
    return Grid(f"{measured.engine}: one worker at {rate:,.0f} requests a second", columns, rows)


def _saturation_grid(measured: Measured, costs: ServerCosts, found: Need) -> Grid:
    limits = saturation(measured, costs, found=found, scale=SCALES[1])
    rows = [[name, f"{rps:,.0f}"] for name, rps in limits.items()]
    return Grid(f"{measured.engine}: half busy at", ("resource", "requests a second"), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="write docs/capacity.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
