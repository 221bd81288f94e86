"""Whether a request costs less than at another revision: both run in turn, on one machine.

    python -m loadtest.bench_against REV [--engine h2corn] [--load c16] [--rounds 4] [--seconds 4]
                                         [--markdown]

Runs this checkout and a worktree of REV (build/against) beside each other, REV once with each of
its engines; each has its own workers and Envoy configuration. Every second round goes backwards.
Ratios, new through REV, are medians over the rounds; below 1 is less. Prints a table and writes
build/bench/bench-against.json. Exits 1 when a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop
from egret_tools.devstack.run_directory import run_directory
from rich.console import Console

from loadtest.bench_envoy import BARE, STREAMED
from loadtest.bench_stack import TABLE_SETTING, Gateway, Side, StackOptions, running_gateways
from loadtest.figures import per_request_us
from loadtest.generators import put_load
from loadtest.load import OPEN_LOOP_CONNECTIONS, Load, LoadError, Target
from loadtest.results import DIRECTORY, ROOT, Grid, Report, prints_failure, publish
from loadtest.sizing import write_sizing
from loadtest.streams.clients import StreamCell, StreamLoad, read_streams, stream_figures
from loadtest.streams.recorded import STREAM_POLICY
from loadtest.targets import write_targets
from loadtest.texts import chat_body

ENGINES: Final = ("h2corn", "grpcio")
"""Servers of REV, by names that its workers accept: `h2corn` was once that of HTTP/2."""
NEW: Final = "new"
REV: Final = "rev"
SIDES: Final = (NEW, REV)
GO: Final = "go"
GO_FIGURE: Final = f"{GO}.c16.worker_cpu_us"
GO_BESIDE: Final = "h2corn"
"""The server of REV beside which the Go server is measured, once a round."""
GO_RATIO: Final = f"h2corn.c16.cpu_of_{GO}"
PINNED: Final = ("tools.txt", "embedded.txt", "dev.txt")
"""Files of `requirements` with all that a side runs; revisions have one of the first two."""
FLOOR: Final = Path(__file__).parent / "go" / "floor.go"
LONG_BODY_BYTES: Final = 64 * 1024
C1: Final = Load("c1", 1)
C16: Final = Load("c16", 16)
LONG: Final = Load("64k", 4)
PEAK: Final = Load("peak", 64)
LOADS: Final = ("c1", "c16", "open", "64k", "streams")
STREAM_RATE: Final = 50
FEW_STREAMS: Final = 20
SETTLE_SECONDS: Final = 1.2
"""Usage is written after the answers; CPU time is read once it is."""

RATIOS: Final = {
    "c16.cpu": "Egret's CPU, 16 connections, µs a request",
    "c16.envoy_cpu": "Envoy's CPU, 16 connections, µs a request",
    "c16.rps": "requests a second, 16 connections",
    "c1.added_p50": "added median latency, 1 connection, ms",
    "open.p99": "p99 latency at half of REV's peak, ms",
    "64k.cpu": "Egret's CPU, 64 KB bodies, µs a request",
    "chunk.cpu": "Egret's CPU, guarded stream, µs a chunk",
    "ttft.added_p50": "added median time to the first event, ms",
}
"""The figures beside each server of REV, in the order they are shown."""


@dataclass(slots=True)
class Series:
    """Values by `<side>.<engine of REV>.<figure>`, one a round, and all failures."""

    values: dict[str, list[float]] = field(default_factory=dict)
    errors: int = 0

    def add(self, key: str, value: float) -> None:
        """Append the value of a round."""
        self.values.setdefault(key, []).append(value)


@prints_failure
def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    engines = tuple(options.engine or ENGINES)
    report = Report("bench-against", "bench-against", for_page=options.markdown)
    rev = check_out(options.rev)
    series = uvloop.run(_measure(rev, engines, options, report.console))
    figures = against_figures(series, engines)
    report.write(figures, against_grid(figures, engines))
    if GO_FIGURE not in figures:
        report.console.print(f"Go is not installed: {GO_FIGURE} is not measured.")
    if options.markdown:
        report.console.print(f"Copied to {publish('bench-against')}, and the table to the page.")
        write_sizing()
        write_targets()
    return report.exit_code(series.errors)


def check_out(revision: str) -> Path:
    """Return a worktree of *revision* below build/against; one that is there is used again.

    Raises:
        LoadError: there is no such revision.
    """
    commit = _git("rev-parse", "--short=12", "--verify", f"{revision}^{{commit}}")
    place = DIRECTORY.parent / "against" / commit
    if not place.exists():
        _git("worktree", "prune")
        _git("worktree", "add", "--detach", "--force", str(place), commit)
    return place


def own_python(checkout: Path) -> str:
    """Return a Python of this version with the packages that *checkout* pins.

    It is beside the checkout; one that is there is used again.

    Raises:
        LoadError: they cannot be installed.
    """
    place = checkout.with_name(
        f"{checkout.name}-{sys.version_info.major}.{sys.version_info.minor}"
    )
    done = place / ".done"
    if not done.exists():
        requirements = next(
            path for name in PINNED if (path := checkout / "requirements" / name).exists()
        )
        python = str(place / "bin" / "python")
        options = ("--quiet", "--disable-pip-version-check", "--require-hashes", "-r")
        for command in (
            (sys.executable, "-m", "venv", "--clear", str(place)),
            (python, "-m", "pip", "install", *options, str(requirements)),
        ):
            run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
            if run.returncode:
                raise LoadError(f"packages of {checkout.name}: {run.stderr[-2000:]}")
        done.touch()
    return str(place / "bin" / "python")


def build_floor() -> Path | None:
    """Build the server in Go that checks nothing; None if Go is not installed.

    Raises:
        LoadError: it does not build.
    """
    go = shutil.which("go")
    if go is None:
        return None
    program = DIRECTORY.parent / "go" / "floor"
    done = subprocess.run(  # noqa: S603 - our own program
        [go, "build", "-o", str(program), str(FLOOR)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LoadError(f"{FLOOR.name} does not build: {done.stderr[-2000:]}")
    return program


def _git(*words: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise LoadError("git is not installed")
    done = subprocess.run(  # noqa: S603 - fixed words and a revision
        [git, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LoadError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def against_figures(series: Series, engines: Sequence[str]) -> dict[str, float]:
    """Return ratios, `<engine>.<figure>`, with their range, and medians of both sides.

    A ratio is taken within a round, before the median: all that drifts, drifts for both sides.
    """
    figures: dict[str, float] = {}
    for key in (f"{engine}.{name}" for engine in engines for name in RATIOS):
        new, rev = (series.values.get(f"{side}.{key}", []) for side in SIDES)
        if not new or not rev:
            continue
        ratios = [mine / theirs for mine, theirs in zip(new, rev, strict=True)]
        figures[key] = statistics.median(ratios)
        figures |= {f"{key}_min": min(ratios), f"{key}_max": max(ratios)}
        figures |= {f"new.{key}": statistics.median(new), f"rev.{key}": statistics.median(rev)}
    new, go = (series.values.get(key, []) for key in (f"{NEW}.{GO_BESIDE}.c16.cpu", GO_FIGURE))
    if new and go:
        ratios = [mine / theirs for mine, theirs in zip(new, go, strict=True)]
        figures |= {GO_FIGURE: statistics.median(go), GO_RATIO: statistics.median(ratios)}
        figures |= {f"{GO_RATIO}_min": min(ratios), f"{GO_RATIO}_max": max(ratios)}
        figures |= {
            f"new.{GO_RATIO}": statistics.median(new),
            f"rev.{GO_RATIO}": figures[GO_FIGURE],
        }
    return figures | {"errors": series.errors}


def against_grid(figures: Mapping[str, float], engines: Sequence[str]) -> Grid:
    """Return a line for each figure of each engine, and one beside the server in Go."""
    words = {f"{engine}.{name}": RATIOS[name] for engine in engines for name in RATIOS}
    words[GO_RATIO] = "Egret's CPU beside a Go server (as REV)"
    rows = [
        [
            key.partition(".")[0],
            text,
            f"{figures[f'rev.{key}']:,.2f}",
            f"{figures[f'new.{key}']:,.2f}",
            f"{figures[key]:.2f}",
            f"{figures[f'{key}_min']:.2f}-{figures[f'{key}_max']:.2f}",
        ]
        for key, text in words.items()
        if key in figures
    ]
    columns = ("engine", "figure", "REV", "new", "ratio", "range")
    return Grid("This checkout beside REV", columns, rows, labels=2)


async def _measure(
    rev: Path, engines: Sequence[str], options: argparse.Namespace, console: Console
) -> Series:
    with (
        tempfile.TemporaryDirectory(prefix="egret-against-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        console.print("Starting both sides …")
        python = await asyncio.to_thread(own_python, rev)
        # The long bodies are all the same: a table of known messages would know them. A revision
        # without one refuses the setting.
        no_table = {TABLE_SETTING: "0"}
        has_table = await asyncio.to_thread(_has_table, rev)
        sides = (
            *(
                Side(
                    f"{REV}.{engine}",
                    rev,
                    settings={"EGRET_SERVER__ENGINE": engine} | (no_table if has_table else {}),
                    python=python,
                )
                for engine in engines
            ),
            Side(NEW, ROOT, settings=no_table),
        )
        floor = await asyncio.to_thread(build_floor)
        servers = {} if floor is None else {GO: floor}
        stack = StackOptions(policies=STREAM_POLICY, servers=servers)
        async with running_gateways(sides, run=run, options=stack) as gateways:
            new = {f"{NEW}.{engine}": gateways[NEW] for engine in engines}
            runner = _Runner(gateways | new, options.seconds, Path(place), console)
            return await runner.rounds(engines, options.load or LOADS, options.rounds)


def _has_table(checkout: Path) -> bool:
    name = TABLE_SETTING.rpartition("__")[2].lower()
    return any(name in one.read_text("utf-8") for one in (checkout / "sidecar").rglob("*.py"))


class _Runner:
    """Puts one load after another on one gateway after another, and watches the processes."""

    def __init__(
        self, gateways: Mapping[str, Gateway], seconds: float, scratch: Path, console: Console
    ) -> None:
        self._gateways = gateways
        self._seconds = seconds
        self._scratch = scratch
        self._console = console
        self._series = Series()
        self._bodies = {False: scratch / "body.json", True: scratch / "long.json"}
        self._bodies[False].write_bytes(chat_body())
        self._bodies[True].write_bytes(chat_body(LONG_BODY_BYTES))

    async def rounds(self, engines: Sequence[str], loads: Sequence[str], rounds: int) -> Series:
        """Warm up, find the peaks of REV, then measure *loads* round after round."""
        rates: dict[str, int] = {}
        for engine in engines:
            for side in SIDES:
                peak = await self._load(f"{side}.{engine}", PEAK)
                if side == REV:
                    rates[engine] = round(peak["rps"] / 2)
        self._series = Series(errors=self._series.errors)
        for number in range(rounds):
            sides = SIDES if number % 2 else SIDES[::-1]
            for engine in engines:
                if engine == GO_BESIDE and GO in self._gateways and C16.name in loads:
                    self._series.add(GO_FIGURE, (await self._load(GO, C16))["cpu"])
                with self._console.status(f"round {number + 1} of {rounds}, {engine} …"):
                    for load in loads:
                        await self._round(load, engine, sides, rates[engine])
        return self._series

    async def _round(self, load: str, engine: str, sides: Sequence[str], rate: int) -> None:
        names = [f"{side}.{engine}" for side in sides]
        match load:
            case "c1":
                alone = (await self._load(BARE, C1))["p50"]
                for name in names:
                    seen = await self._load(name, C1)
                    self._series.add(f"{name}.c1.added_p50", seen["p50"] - alone)
            case "c16":
                for name in names:
                    seen = await self._load(name, C16)
                    for figure in ("cpu", "envoy_cpu", "rps"):
                        self._series.add(f"{name}.c16.{figure}", seen[figure])
            case "open":
                open_loop = Load("open", OPEN_LOOP_CONNECTIONS, rate=rate)
                for name in names:
                    seen = await self._load(name, open_loop)
                    self._series.add(f"{name}.open.p99", seen["p99"])
            case "64k":
                for name in names:
                    seen = await self._load(name, LONG)
                    self._series.add(f"{name}.64k.cpu", seen["cpu"])
            case _:
                first = (await self._streams(BARE))["ttft"]
                for name in names:
                    seen = await self._streams(name)
                    self._series.add(f"{name}.chunk.cpu", seen["cpu"])
                    self._series.add(f"{name}.ttft.added_p50", seen["ttft"] - first)

    async def _load(self, name: str, load: Load) -> dict[str, float]:
        gateway = self._gateways[name]
        target = Target(gateway.url, gateway.key, self._bodies[load is LONG])
        before = gateway.cpu_seconds()
        measured = await put_load(
            load, target=target, seconds=self._seconds, scratch=self._scratch
        )
        await asyncio.sleep(SETTLE_SECONDS)
        used = [now - then for now, then in zip(gateway.cpu_seconds(), before, strict=True)]
        self._series.errors += measured.errors
        return {
            "cpu": per_request_us(used[0], measured.requests),
            "envoy_cpu": per_request_us(used[1], measured.requests),
            "rps": measured.rps,
            "p50": measured.p50_ms,
            "p99": measured.p99_ms,
        }

    async def _streams(self, name: str) -> dict[str, float]:
        gateway = self._gateways[name]
        load = StreamLoad(FEW_STREAMS, STREAM_RATE, self._seconds, stream_seconds=2.0)
        before = gateway.cpu_seconds()
        seen = await read_streams(
            load,
            url=gateway.url,
            key=gateway.keys["window"].get_secret_value(),
            headers={STREAMED: "1"},
        )
        await asyncio.sleep(SETTLE_SECONDS)
        egret, envoy = (
            now - then for now, then in zip(gateway.cpu_seconds(), before, strict=True)
        )
        cell = StreamCell(load, seen, worker_cpu_seconds=egret, envoy_cpu_seconds=envoy)
        figures = stream_figures(cell)
        self._series.errors += seen.failed
        return {"cpu": figures["worker_cpu_us_per_chunk"], "ttft": figures["ttft_p50_ms"]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_against", description=__doc__)
    parser.add_argument("rev", help="a revision, such as a tag or a commit")
    parser.add_argument(
        "--engine", choices=ENGINES, action="append", help="of REV; both by default"
    )
    parser.add_argument("--load", choices=LOADS, action="append", help="all by default")
    parser.add_argument("--rounds", type=int, default=4, help="each figure is a median of these")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
