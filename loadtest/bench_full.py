"""What changes the cost of a request: one thing at a time, each against Envoy alone.

    python -m loadtest.bench_full [--seconds 5] [--markdown]

Prompts of 1, 8 and 64 KB, HTTP/2 with TLS, keys by Zipf's law, a new key each time, a hundred
policies, a policy of a thousand rules, two workers; all at 16 connections on both engines. Then
the memory of a worker whose cache of keys is full. `make bench-full` also runs bench and
bench-features. Prints tables and writes build/bench/bench-full.json. Exits 1 when a request
failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egret_tools.devstack.child import PartError
from egret_tools.devstack.run_directory import run_directory
from rich.console import Console

from loadtest.bench import ENGINES
from loadtest.bench_envoy import BARE, SECURED, MoreListeners
from loadtest.bench_stack import (
    OWNER,
    BenchStack,
    Extras,
    running_bench_stack,
    until_compiled,
)
from loadtest.figures import per_request_us
from loadtest.k6 import put_load
from loadtest.keys.stack import TEAMS, bench_key, bench_rows, key_ids
from loadtest.load import Draw, Load, LoadError, Target
from loadtest.many_rules import many_rules
from loadtest.processes import cpu_seconds, proportional_mb, resident_mb
from loadtest.results import (
    Grid,
    circumstances,
    new_console,
    publish,
    write_json,
    write_section,
)
from loadtest.texts import CHAT_BODY_BYTES, chat_body
from sidecar.admin.key_files import Faults
from sidecar.admin.key_transfer import ImportOptions, import_keys
from sidecar.admin.owners import Rules, create_team
from sidecar.settings.stores import CacheSettings, PostgresSettings
from sidecar.storage.pool import connect

LOAD: Final = Load("c16", 16)
WARM_UP: Final = Load("warm-up", 8)
WARM_UP_SECONDS: Final = 2.0
ZIPF_KEYS: Final = 20_000
NEW_KEYS: Final = 20_000
"""Of one measurement: more than it has requests."""
CACHED_KEYS: Final = CacheSettings().max_keys
FILL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing that differs from the base."""

    name: str
    body_bytes: int = CHAT_BODY_BYTES
    is_secured: bool = False
    draw: Draw | None = None
    policy: str | None = None
    """Whose key asks, on a stack that has `POLICIES`; empty for the built-in one's."""
    workers: int = 1


FEW_RULES, MANY_RULES = 10, 1_000
_FEW, _MANY = "few-rules", "many-rules"
POLICIES: Final = "\n---\n".join(
    (
        many_rules(FEW_RULES, name=_FEW),
        many_rules(MANY_RULES, name=_MANY, seed=2),
        *(many_rules(5, name=f"other-{seed}", seed=seed) for seed in range(3, 101)),
    )
)

VARIANTS: Final = (
    Variant("1 KB, HTTP/1.1, one key, 1 worker"),
    Variant("8 KB", body_bytes=8 * 1024),
    Variant("64 KB", body_bytes=64 * 1024),
    Variant("HTTP/2 with TLS", is_secured=True),
    Variant(f"{ZIPF_KEYS:,} keys by Zipf's law", draw=Draw.ZIPF),
    Variant("a new key each time", draw=Draw.ONCE),
    Variant("100 policies", policy=""),
    Variant(f"a policy of {FEW_RULES} rules", policy=_FEW),
    Variant(f"a policy of {MANY_RULES:,} rules", policy=_MANY),
    Variant("2 workers", workers=2),
)
STACKS: Final = (
    [one for one in VARIANTS if one.workers == 1 and one.policy is None],
    [one for one in VARIANTS if one.policy is not None],
    [one for one in VARIANTS if one.workers > 1],
)
"""Those that one stack serves."""


def main() -> int:
    """Measure, show and write; return the exit code."""
    options = _options()
    console = new_console()
    run = circumstances(" ".join(["python -m loadtest.bench_full", *sys.argv[1:]]))
    figures: dict[str, float] = {}
    try:
        for variants in STACKS:
            figures |= asyncio.run(_measure(variants, options.seconds, console))
    except (PartError, LoadError) as error:
        console.print(f"✗ {error}", markup=False, style="red")
        return 1
    grids = (full_grid(figures), memory_grid(figures))
    for grid in grids:
        grid.show(console)
    console.print(f"\nWritten to {write_json('bench-full', figures, run)}.")
    if options.markdown:
        tables = "\n\n".join(grid.as_markdown() for grid in grids)
        write_section("full", f"{run.as_sentence()}\n\n{tables}")
        publish("bench-full")
    errors = sum(value for name, value in figures.items() if name.endswith(".errors"))
    if errors:
        console.print(f"✗ {errors:.0f} requests failed.", style="red")
    return 1 if errors else 0


def full_grid(figures: Mapping[str, float]) -> Grid:
    """Return a line a variant and target."""
    rows = [
        [
            variant.name,
            "Envoy alone" if target == BARE else target,
            *(
                f"{figures[f'{target}.{variant.name}.{name}']:,.{digits}f}"
                for name, digits in _SHOWN
            ),
        ]
        for variant in VARIANTS
        for target in (BARE, *ENGINES)
    ]
    columns = ("", "target", "RPS", "p50 ms", "p99 ms", "worker CPU µs", "Envoy CPU µs")
    return Grid("One thing at a time, 16 connections", columns, rows, labels=2)


def memory_grid(figures: Mapping[str, float]) -> Grid:
    """Return the memory of a worker that holds as many keys as it may."""
    rows = [
        [engine, *(f"{figures[f'{engine}.full_cache.{name}']:,.0f}" for name in _MEMORY)]
        for engine in ENGINES
    ]
    columns = ("engine", "RSS MB", "PSS MB")
    return Grid(f"Memory of a worker with {CACHED_KEYS:,} cached keys", columns, rows)


_MEMORY: Final = ("rss_mb", "pss_mb")
_SHOWN: Final = (
    ("rps", 0), ("p50_ms", 2), ("p99_ms", 2), ("worker_cpu_us", 0), ("envoy_cpu_us", 0),
)  # fmt: skip


async def _measure(
    variants: Sequence[Variant], seconds: float, console: Console
) -> dict[str, float]:
    figures: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        extras = Extras(listeners=MoreListeners(is_secured=True))
        policies = "" if variants[0].policy is None else POLICIES
        async with running_bench_stack(
            ENGINES,
            workers=variants[0].workers,
            envoy_threads=1,
            run=run,
            policies=policies,
            extras=extras,
        ) as stack:
            for engine in ENGINES:
                await until_compiled(stack.urls[engine], stack.keys)
            keys = _Keys(Path(place), await _import_keys(stack, variants))
            for variant in variants:
                body = Path(place) / "body.json"
                body.write_bytes(chat_body(variant.body_bytes))
                for target in (BARE, *ENGINES):
                    with console.status(f"{variant.name} on {target} …"):
                        found = await _cell(
                            stack, variant, target, body=body, keys=keys, seconds=seconds
                        )
                    figures |= {
                        f"{target}.{variant.name}.{name}": value for name, value in found.items()
                    }
            if variants is STACKS[0]:
                for engine in ENGINES:
                    with console.status(f"{CACHED_KEYS:,} keys on {engine} …"):
                        figures |= await _memory(stack, engine, place=Path(place), keys=keys)
    return figures


async def _memory(stack: BenchStack, engine: str, *, place: Path, keys: _Keys) -> dict[str, float]:
    """Ask with as many keys as a worker keeps; return what it takes then."""
    body = place / "body.json"
    body.write_bytes(chat_body())
    asked = errors = 0
    while asked < CACHED_KEYS:
        file = keys.hot(asked, CACHED_KEYS)
        aim = Target(stack.urls[engine], stack.key, body, keys=file, draw=Draw.ONCE)
        seen = await put_load(LOAD, target=aim, seconds=FILL_SECONDS, scratch=place)
        asked, errors = asked + seen.requests, errors + seen.errors
    (pid,) = stack.workers[engine]
    start = f"{engine}.full_cache"
    return {
        f"{start}.rss_mb": resident_mb(pid),
        f"{start}.pss_mb": proportional_mb(pid),
        f"{start}.errors": errors,
    }


async def _cell(  # noqa: PLR0913 - what makes up a measurement
    stack: BenchStack,
    variant: Variant,
    target: str,
    *,
    body: Path,
    keys: _Keys,
    seconds: float,
) -> dict[str, float]:
    """Put one load on one target; keys that must be warm are, by the load before it."""
    url = stack.urls[f"{target}{SECURED}" if variant.is_secured else target]
    aim = Target(url, stack.keys[variant.policy] if variant.policy else stack.key, body)
    if variant.draw is not None:
        file = keys.hot() if variant.draw is Draw.ZIPF else keys.new()
        aim = Target(url, stack.key, body, keys=file, draw=variant.draw)
    if variant.draw is not Draw.ONCE:
        await put_load(WARM_UP, target=aim, seconds=WARM_UP_SECONDS, scratch=body.parent)
    workers, envoy = stack.workers.get(target, ()), (stack.envoy_pid,)
    before = cpu_seconds(workers), cpu_seconds(envoy)
    seen = await put_load(LOAD, target=aim, seconds=seconds, scratch=body.parent)
    return {
        "rps": seen.rps,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "worker_cpu_us": per_request_us(cpu_seconds(workers) - before[0], seen.requests),
        "envoy_cpu_us": per_request_us(cpu_seconds(envoy) - before[1], seen.requests),
        "errors": seen.errors,
    }


class _Keys:
    """Files of keys for k6: the same ones, or ones that nobody has used."""

    def __init__(self, place: Path, ids: Sequence[str]) -> None:
        self._place = place
        self._hot = ids[:ZIPF_KEYS]
        self._unused = self._slices(ids[ZIPF_KEYS:])

    def hot(self, start: int = 0, stop: int | None = None) -> Path:
        """Return those that are asked for again and again, or some of them."""
        return self._written(self._hot[start:stop])

    def new(self) -> Path:
        """Return some that nobody has asked for."""
        return self._written(next(self._unused))

    def _written(self, ids: Sequence[str]) -> Path:
        file = self._place / "keys.json"
        file.write_text(json.dumps([bench_key(one).reveal() for one in ids]), encoding="utf-8")
        return file

    @staticmethod
    def _slices(ids: Sequence[str]) -> Iterator[Sequence[str]]:
        for begin in range(0, len(ids), NEW_KEYS):
            yield ids[begin : begin + NEW_KEYS]


async def _import_keys(stack: BenchStack, variants: Sequence[Variant]) -> Sequence[str]:
    """Import as many keys as *variants* draw from, beside the one that all others use."""
    if not any(variant.draw for variant in variants):
        return ()
    ids = key_ids(ZIPF_KEYS + (1 + len(ENGINES)) * NEW_KEYS)
    async with connect(PostgresSettings(dsn=stack.dsn)) as database:
        for number in range(TEAMS):
            await create_team(database, f"team-{number}", organization=OWNER, rules=Rules())
        await import_keys(
            database,
            bench_rows(ids),
            faults=Faults(),
            options=ImportOptions(),
            on_written=lambda _: None,
        )
    return ids


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_full", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
