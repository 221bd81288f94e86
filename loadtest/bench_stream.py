"""Cost of guarded and counted streams: the same streams with and without Egret, in turn.

    python -m loadtest.bench_stream [--quick] [--seconds 12] [--markdown]

One worker, one Envoy, and a provider that writes the time into its events.
Prints tables and writes build/bench/bench-stream.json. Exits 1 when a stream failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop
from egret_tools.devstack.run_directory import run_directory
from rich.console import Console

from loadtest.bench_envoy import STREAMED
from loadtest.bench_stack import HERE, Gateway, StackOptions, running_gateways
from loadtest.figures import BASELINE, Figures
from loadtest.results import Grid, Report, prints_failure
from loadtest.streams.clients import (
    StreamCell,
    StreamLoad,
    added,
    holds,
    read_streams,
    stream_figures,
)
from loadtest.streams.estimates import Estimate, estimates

WINDOW: Final = "window"
HIDE: Final = "hide"
BOTH: Final = "window-hide"
WAYS: Final = (WINDOW, HIDE, BOTH)
_GUARDED: Final = """
  - {name: pii, type: pii, stage: output, action: redact}
  - {name: secrets, type: secrets, stage: output, action: block}
"""
POLICIES: Final = f"""
name: {WINDOW}
usage: {{streams: estimate}}
guardrails: {_GUARDED}
---
name: {HIDE}
usage: {{streams: hide}}
guardrails: []
---
name: {BOTH}
usage: {{streams: hide}}
guardrails: {_GUARDED}
"""

RATE: Final = 50
"""Events a second of one stream: a fast model."""
FEW: Final = 20
MANY: Final = (200, 150, 100, 60, 40)
"""Streams at once, the most first: the first number that holds is the answer."""
SETTLE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A listener, and the policy of the key that is used there."""

    listener: str
    way: str

    @property
    def name(self) -> str:
        """Its prefix among the figures; of the window it is the listener alone."""
        if self.listener == BASELINE:
            return BASELINE
        return self.listener if self.way == WINDOW else f"{self.listener}.{self.way}"


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    seconds = 4.0 if options.quick else options.seconds
    report = Report("bench-stream", "stream", for_page=options.markdown)
    figures = uvloop.run(_measure(seconds, MANY[:1] if options.quick else MANY, report.console))
    guesses = list(estimates())
    figures |= _estimate_figures(guesses)
    report.write(figures, _cost_grid(figures), _most_grid(figures), _estimate_grid(guesses))
    failed = sum(value for key, value in figures.items() if key.endswith("failed"))
    return report.exit_code(failed, of="streams")


async def _measure(seconds: float, many: Sequence[int], console: Console) -> dict[str, float]:
    options = StackOptions(policies=POLICIES)
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        async with running_gateways((HERE,), run=run, options=options) as gateways:
            runner = _Runner(gateways, seconds, console)
            return {**await runner.costs(), **await runner.most(many)}


class _Runner:
    """Puts one load after another on one target after another, and watches the processes."""

    def __init__(self, gateways: Mapping[str, Gateway], seconds: float, console: Console) -> None:
        self._gateways = gateways
        self._seconds = seconds
        self._console = console

    async def costs(self) -> dict[str, float]:
        """Measure a few streams on every target, so that nothing queues."""
        load = StreamLoad(FEW, RATE, self._seconds, stream_seconds=2.0)
        for target in _targets():
            await self._cell(StreamLoad(FEW, RATE, 1.0, stream_seconds=1.0), target)
        figures: dict[str, float] = {}
        baseline: Figures = {}
        for target in _targets():
            mine = stream_figures(await self._cell(load, target))
            baseline = baseline or mine
            both = mine if target.listener == BASELINE else {**mine, **added(mine, baseline)}
            figures |= {
                f"{target.name}.{name}": value
                for name, value in both.items()
                if name != "chunks_per_s"
            }
        return figures

    async def most(self, many: Sequence[int]) -> dict[str, float]:
        """Return the highest rate at which delays do not grow, and the figures of the highest."""
        figures: dict[str, float] = {}
        for target in _targets():
            figures[f"{target.name}.chunks_per_s"] = 0.0
            for streams in many:
                cell = await self._cell(StreamLoad(streams, RATE, self._seconds), target)
                mine = stream_figures(cell)
                if streams == many[0]:
                    figures |= {f"{target.name}.full.{name}": mine[name] for name in _FULL}
                if holds(cell):
                    figures[f"{target.name}.chunks_per_s"] = mine["chunks_per_s"]
                    break
        return figures

    async def _cell(self, load: StreamLoad, target: Target) -> StreamCell:
        gateway = self._gateways[target.listener]
        with self._console.status(f"{load.streams} streams on {target.name} …"):
            before = gateway.cpu_seconds()
            seen = await read_streams(
                load,
                url=gateway.url,
                key=gateway.keys[target.way].get_secret_value(),
                headers={STREAMED: "1"},
            )
            used = [now - then for now, then in zip(gateway.cpu_seconds(), before, strict=True)]
            cell = StreamCell(load, seen, worker_cpu_seconds=used[0], envoy_cpu_seconds=used[1])
        await asyncio.sleep(SETTLE_SECONDS)
        return cell


_FULL: Final = (
    "chunks_per_s", "growth_ms", "delay_p50_ms", "delay_p95_ms", "worker_cpu_us_per_chunk",
    "envoy_cpu_us_per_chunk", "failed",
)  # fmt: skip


def _targets() -> Iterator[Target]:
    yield Target(BASELINE, WINDOW)
    for way in WAYS:
        yield Target(HERE.name, way)


def _title(target: Target) -> str:
    return "Envoy alone" if target.listener == BASELINE else target.way.replace("-", " + ")


def _cost_grid(figures: Figures) -> Grid:
    names = (
        "added_ttft_p50_ms", "added_ttft_p95_ms", "added_first_word_p50_ms", "added_delay_p50_ms",
        "added_release_p50_ms", "added_release_p95_ms", "worker_cpu_us_per_chunk",
        "envoy_cpu_us_per_chunk",
    )  # fmt: skip
    rows = [
        [_title(target), *(_shown(figures, f"{target.name}.{name}", name) for name in names)]
        for target in _targets()
    ]
    columns = (
        "policy", "+TTFT p50 ms", "+TTFT p95 ms", "+first word p50 ms",
        "+hold p50 ms", "+own p50 ms", "+own p95 ms", "worker µs", "Envoy µs",
    )  # fmt: skip
    return Grid(f"{FEW} streams of {RATE} chunks a second", columns, rows)


def _most_grid(figures: Figures) -> Grid:
    names = (
        "chunks_per_s", "full.chunks_per_s", "full.growth_ms", "full.delay_p50_ms",
        "full.delay_p95_ms", "full.worker_cpu_us_per_chunk", "full.envoy_cpu_us_per_chunk",
    )  # fmt: skip
    rows = [
        [_title(target), *(_shown(figures, f"{target.name}.{name}", name) for name in names)]
        for target in _targets()
    ]
    columns = (
        "policy", "holds chunks/s", "came/s", "growth ms", "delay p50 ms",
        "delay p95 ms", "worker µs", "Envoy µs",
    )  # fmt: skip
    return Grid(f"{MANY[0]} streams of {RATE} chunks a second", columns, rows)


def _estimate_grid(guesses: Sequence[Estimate]) -> Grid:
    rows = [
        [one.text, one.form, f"{one.output:,}", *map("{:+.0%}".format, one.errors)]
        for one in guesses
    ]
    columns = ("text", "events of", "tokens", "estimate of output", "estimate of input")
    return Grid("How far off an estimate is", columns, rows, labels=2)


def _estimate_figures(guesses: Sequence[Estimate]) -> dict[str, float]:
    return {
        f"estimate.{name}_error_most": max(abs(one.errors[place]) for one in guesses)
        for place, name in enumerate(("output", "input"))
    }


def _shown(figures: Figures, key: str, name: str) -> str:
    if key not in figures:
        return "-"
    digits = 2 if name.endswith("_ms") else 0
    return f"{figures[key]:,.{digits}f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_stream", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of one measurement")
    parser.add_argument("--quick", action="store_true", help="4 s and one rate: a smoke test")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
