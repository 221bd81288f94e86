"""What was aimed at, held against what was published: reached or not.

    python -m loadtest.targets [--markdown]

Reads docs/figures/bench.json, bench-full.json and bench-peers.json, which `make bench-full` and
`make bench-peers` write with --markdown. Prints a table and, if told, writes it into
docs/performance.md. Measures nothing.
"""

from __future__ import annotations

import argparse
import enum
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loadtest.bench_full import CACHED_KEYS, VARIANTS
from loadtest.load import Draw
from loadtest.results import Grid, NotPublishedError, new_console, published, write_section

Figures = Mapping[str, Any]


class Bound(enum.Enum):
    """On which side of the aim a figure has to be."""

    BELOW = "<"
    AT_LEAST = "≥"


@dataclass(frozen=True, slots=True)
class Aim:
    """One row: of which result, which figure, and what it shall be."""

    what: str
    result: str
    figure: Callable[[Figures], float]
    bound: Bound
    value: float
    unit: str = ""

    def is_reached(self, measured: float) -> bool:
        """Say whether *measured* is on the right side."""
        match self.bound:
            case Bound.BELOW:
                return measured < self.value
            case Bound.AT_LEAST:
                return measured >= self.value


def _one(name: str) -> Callable[[Figures], float]:
    return lambda figures: float(figures[name])


def _ratio(above: str, below: str) -> Callable[[Figures], float]:
    return lambda figures: float(figures[above]) / float(figures[below])


def _latency(engine: str, load: str, name: str) -> Callable[[Figures], float]:
    return _one(f"{engine}.{load}.{name}")


_BENCH: Final = "bench"
_FULL: Final = "bench-full"
_PEERS: Final = "bench-peers"
_BASE, _EIGHT_KB, _SIXTY_FOUR_KB = (variant.name for variant in VARIANTS[:3])
_MANY_KEYS: Final = next(one.name for one in VARIANTS if one.draw is Draw.ZIPF)
_POLICIES, _FEW_RULES, _MANY_RULES = (
    variant.name for variant in VARIANTS if variant.policy is not None
)
AIMS: Final = (
    Aim("h2corn, 1 connection: added p50", _BENCH, _latency("h2corn", "c1", "added_p50_ms"),
        Bound.BELOW, 0.6, "ms"),
    Aim("h2corn, 1 connection: added p99", _BENCH, _latency("h2corn", "c1", "added_p99_ms"),
        Bound.BELOW, 1.5, "ms"),
    Aim("h2corn, 16 connections: requests a second", _BENCH, _latency("h2corn", "c16", "rps"),
        Bound.AT_LEAST, 3_500),
    Aim("h2corn, 16 connections: p99", _BENCH, _latency("h2corn", "c16", "p99_ms"),
        Bound.BELOW, 10, "ms"),
    Aim("h2corn, 2000 a second: p50", _BENCH, _latency("h2corn", "open2000", "p50_ms"),
        Bound.BELOW, 2, "ms"),
    Aim("h2corn, 2000 a second: p99", _BENCH, _latency("h2corn", "open2000", "p99_ms"),
        Bound.BELOW, 8, "ms"),
    Aim("h2corn, 16 connections: CPU of a worker", _BENCH,
        _latency("h2corn", "c16", "worker_cpu_us"), Bound.BELOW, 220, "µs"),
    Aim("grpcio, 1 connection: added p50", _BENCH, _latency("grpcio", "c1", "added_p50_ms"),
        Bound.BELOW, 1.1, "ms"),
    Aim("grpcio, 16 connections: requests a second", _BENCH, _latency("grpcio", "c16", "rps"),
        Bound.AT_LEAST, 2_000),
    Aim("grpcio, 16 connections: CPU of a worker", _BENCH,
        _latency("grpcio", "c16", "worker_cpu_us"), Bound.BELOW, 500, "µs"),
    *(
        Aim(f"{engine}: memory of a worker with {CACHED_KEYS:,} keys", _FULL,
            _one(f"{engine}.full_cache.rss_mb"), Bound.BELOW, 150, "MB")
        for engine in ("h2corn", "grpcio")
    ),
    Aim("h2corn, 64 KB beside 8 KB: CPU of a worker (linear: 8)", _FULL,
        _ratio(f"h2corn.{_SIXTY_FOUR_KB}.worker_cpu_us", f"h2corn.{_EIGHT_KB}.worker_cpu_us"),
        Bound.BELOW, 8, "times"),
    Aim("h2corn, 20,000 keys beside one: CPU of a worker (flat: 1)", _FULL,
        _ratio(f"h2corn.{_MANY_KEYS}.worker_cpu_us", f"h2corn.{_BASE}.worker_cpu_us"),
        Bound.BELOW, 1.5, "times"),
    Aim("h2corn, 100 policies beside one: CPU of a worker (flat: 1)", _FULL,
        _ratio(f"h2corn.{_POLICIES}.worker_cpu_us", f"h2corn.{_BASE}.worker_cpu_us"),
        Bound.BELOW, 1.5, "times"),
    Aim("h2corn, 1,000 rules beside 10: CPU of a worker (flat: 1)", _FULL,
        _ratio(f"h2corn.{_MANY_RULES}.worker_cpu_us", f"h2corn.{_FEW_RULES}.worker_cpu_us"),
        Bound.BELOW, 1.5, "times"),
    Aim("h2corn beside LiteLLM with patterns: requests a second", _PEERS,
        _ratio("Egret h2corn.c16.rps", "LiteLLM guarded.c16.rps"), Bound.AT_LEAST, 30, "times"),
    Aim("LiteLLM with patterns beside h2corn: p50 at 1 connection", _PEERS,
        _ratio("LiteLLM guarded.c1.p50_ms", "Egret h2corn.c1.p50_ms"),
        Bound.AT_LEAST, 10, "times"),
    Aim("h2corn beside Portkey, which checks nothing: requests a second", _PEERS,
        _ratio("Egret h2corn.c16.rps", "Portkey.c16.rps"), Bound.AT_LEAST, 1, "times"),
)  # fmt: skip


def main() -> int:
    """Compare, show and write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.targets", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    console = new_console()
    try:
        results = {name: published(name) for name in dict.fromkeys(aim.result for aim in AIMS)}
    except NotPublishedError as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    grid = targets_grid(AIMS, results)
    grid.show(console)
    if options.markdown:
        sources = ", ".join(
            f"{name} of commit {found['commit']}, {found['started']}"
            for name, found in results.items()
        )
        write_section("targets", f"From {sources}.\n\n{grid.as_markdown()}")
    return 0


def targets_grid(aims: Sequence[Aim], results: Mapping[str, Figures]) -> Grid:
    """Return a line an aim."""
    rows = []
    for aim in aims:
        measured = aim.figure(results[aim.result])
        shown = [f"{one:,.4g} {aim.unit}".rstrip() for one in (aim.value, measured)]
        reached = "yes" if aim.is_reached(measured) else "no"
        rows.append([aim.what, f"{aim.bound.value} {shown[0]}", shown[1], reached])
    return Grid("What was aimed at", ("aim", "wanted", "measured", "reached"), rows)


if __name__ == "__main__":
    sys.exit(main())
