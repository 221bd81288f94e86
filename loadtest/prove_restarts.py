"""Counts the requests that fail when a part is killed or replaced under load.

    python -m loadtest.prove_restarts [--rounds N] [--markdown]

Under load, each so many times: a worker is killed, a worker is stopped, Envoy is replaced as
a pod is. Streams wait for their model meanwhile. Exits with 1 if a request fails that had its
verdict, or that was sent after the kill, or if a replacement fails any. Prints figures, and writes
build/bench/prove-restarts.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
from egret_tools.devstack.envoy import EnvoyRun, listening_envoy
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from egret_tools.devstack.stack import StackFacts, StackOptions, running_stack
from rich.console import Console
from rich.progress import Progress

from loadtest.results import (
    Grid,
    circumstances,
    new_console,
    prints_failure,
    write_json,
    write_section,
)

CHAT: Final = "/v1/chat/completions"
OK: Final = 200
PAUSE_SECONDS: Final = 0.01
REQUEST_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 60.0
END: Final = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that was not answered as it should have been, when it was sent and given up."""

    name: str
    begun: float
    ended: float


@dataclass(frozen=True, slots=True)
class Sending:
    """How many clients send: short requests one after another, and streams that take a while."""

    short: int = 8
    streams: int = 8


@dataclass
class RestartLoad:
    """Clients of a service, as balancers have it: each stays where it is until it is sent away."""

    url: str
    key: str = field(repr=False)
    answered: int = 0
    failures: list[Failed] = field(default_factory=list)
    _at: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def at(self, url: str) -> int:
        """Return how many clients hold a connection to *url*."""
        return self._at[url]

    async def answers(self, count: int) -> None:
        """Wait for so many more good answers."""
        wanted = self.answered + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.answered < wanted:  # noqa: ASYNC110 - counted by many
                await asyncio.sleep(PAUSE_SECONDS)

    async def run(self, sending: Sending, done: asyncio.Event) -> None:
        """Send until *done*, and let open requests end."""
        kinds = [False] * sending.short + [True] * sending.streams
        async with asyncio.TaskGroup() as group:
            for is_stream in kinds:
                group.create_task(self._client(done, is_stream=is_stream))

    async def _client(self, done: asyncio.Event, *, is_stream: bool) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        while not done.is_set():
            url = self.url
            self._at[url] += 1
            async with aiohttp.ClientSession(url, headers=headers, timeout=timeout) as client:
                while not done.is_set() and await self._stays(client, is_stream=is_stream):  # noqa: ASYNC110 - its pace
                    await asyncio.sleep(PAUSE_SECONDS)
            self._at[url] -= 1

    async def _stays(self, client: aiohttp.ClientSession, *, is_stream: bool) -> bool:
        """Send one request; return whether its answer keeps the connection open."""
        begun = time.monotonic()
        try:
            async with client.post(CHAT, json=self._body(is_stream=is_stream)) as answer:
                body = await answer.read()
                if answer.status != OK:
                    self._fail(f"{answer.status} {_code(body)}".strip(), begun)
                elif is_stream and END not in body:
                    self._fail("a stream without its end", begun)
                else:
                    self.answered += 1
                return answer.headers.get("connection") != "close"
        except (aiohttp.ClientError, OSError) as error:
            self._fail(type(error).__name__, begun)
            return False

    def _fail(self, name: str, begun: float) -> None:
        self.failures.append(Failed(name, begun, time.monotonic()))

    def _body(self, *, is_stream: bool) -> Mapping[str, Any]:
        text = f"Number {next(self._numbers)}: write to bob.builder@example.com about herons."
        message = {"role": "user", "content": text}
        return {"model": "gpt-4o", "messages": [message], "stream": is_stream}


def _code(body: bytes) -> str:
    """Return the code of Egret's refusal; Envoy's own answers have none."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


@dataclass(frozen=True, slots=True)
class Tally:
    """The outcome of all rounds of one kind.

    `had_verdict` are requests that reached the provider and were not answered; `sent_later` those
    that were sent after the blow and failed.
    """

    name: str
    rounds: int
    answered: int
    failed: int
    had_verdict: int
    sent_later: int
    may_fail: bool
    kinds: tuple[str, ...] = ()

    @property
    def sent(self) -> int:
        """All of them."""
        return self.answered + self.failed

    @property
    def faults(self) -> tuple[str, ...]:
        """The violations, a sentence each."""
        found = []
        if self.had_verdict:
            found.append(f"{self.name}: {self.had_verdict} requests failed after their verdict")
        if self.sent_later:
            found.append(f"{self.name}: {self.sent_later} failed that were sent afterwards")
        if self.failed and not self.may_fail:
            found.append(f"{self.name}: {self.failed} requests failed")
        return tuple(found)


def tally_grid(tallies: Sequence[Tally]) -> Grid:
    """Return a row for each kind of round."""
    columns = ("each round", "rounds", "answered", "failed", "after a verdict", "sent later", "as")
    rows = [
        [
            one.name,
            *(f"{n:,}" for n in (one.rounds, one.answered, one.failed)),
            *(f"{n:,}" for n in (one.had_verdict, one.sent_later)),
            ", ".join(one.kinds),
        ]
        for one in tallies
    ]
    return Grid("Failed requests", columns, rows)


def tally_figures(tallies: Sequence[Tally]) -> dict[str, float]:
    """Return them by kind of round and count."""
    return {
        f"{one.name.replace(' ', '_')}.{name}": float(value)
        for one in tallies
        for name, value in (
            ("rounds", one.rounds), ("answered", one.answered), ("failed", one.failed),
            ("had_verdict", one.had_verdict), ("sent_later", one.sent_later),
        )
    }  # fmt: skip


ROUNDS: Final = 20
EVENT_MS: Final = 100
"""Between two words of a stream: it waits for the model most of its life."""
WORKERS: Final = 2
BETWEEN: Final = 100
"""Requests that are answered between one blow and the next."""
POLL_SECONDS: Final = 0.02
PATIENT: Final = {
    "EGRET_POSTGRES__ACQUIRE_SECONDS": "4",
    "EGRET_POSTGRES__QUERY_SECONDS": "4",
    "EGRET_EXCHANGE__AUTHORIZE_SECONDS": "5",
    "EGRET_EXCHANGE__INSPECT_SECONDS": "4",
}
"""A machine that does something else as well is slow, not away: that is not the question."""
ENVOY_OPTIONS: Final = ("--drain-time-s", "60", "--drain-strategy", "immediate")
"""As the chart has them."""
DRAIN: Final = "/drain_listeners?graceful&skip_exit"


@dataclass
class World:
    """The stack, the faults that can be injected, and its current Envoy."""

    facts: StackFacts
    run: RunDirectory
    load: RestartLoad
    client: aiohttp.ClientSession
    envoys: AsyncExitStack = field(default_factory=AsyncExitStack)
    admin_url: str = ""
    replaced: int = 0

    async def kill_worker(self) -> None:
        """Kill one without a warning, and wait until its successor takes requests."""
        await self._end_worker(signal.SIGKILL)

    async def stop_worker(self) -> None:
        """Have one drain and end, and wait until its successor takes requests."""
        await self._end_worker(signal.SIGTERM)

    async def _end_worker(self, number: signal.Signals) -> None:
        before = {one.pid for one in self._workers()}
        psutil.Process(min(before)).send_signal(number)
        await until(lambda: self._has_successor(before))

    async def _has_successor(self, before: set[int]) -> bool:
        now = {one.pid for one in self._workers()}
        is_whole = len(now) == WORKERS and now != before
        return is_whole and self._are_ready() and await self._is_healthy()

    def _workers(self) -> list[psutil.Process]:
        return psutil.Process(self.facts.workers_pid).children()

    def _are_ready(self) -> bool:
        log = (self.facts.logs / "workers.log").read_text(encoding="utf-8")
        died = log.count('"worker.died"') + log.count('"worker.stopped"')
        return log.count('"worker.ready"') >= WORKERS + died

    async def _is_healthy(self) -> bool:
        """Return whether Envoy sends requests to every worker."""
        query = {"format": "json"}
        async with self.client.get(f"{self.admin_url}/clusters", params=query) as answer:
            clusters = (await answer.json(content_type=None))["cluster_statuses"]
        (workers,) = (one for one in clusters if one["name"] == "egret")
        return all(
            set(host["health_status"]) == {"eds_health_status"}
            for host in workers["host_statuses"]
        )

    async def replace_envoy(self) -> None:
        """Start another, name it in the service, send the old one's clients there, and end it."""
        old, old_url, old_admin = self.envoys, self.load.url, self.admin_url
        await self.start_envoy()
        async with self.client.post(f"{old_admin}{DRAIN}") as answer:
            answer.raise_for_status()
        await until(lambda: _as_awaited(self.load.at(old_url) == 0))
        await old.aclose()

    async def start_envoy(self) -> None:
        """Start one with the stack's configuration, as the chart does, and lead clients there."""
        self.replaced += 1
        place = self.run.path / f"envoy-{self.replaced}"
        place.mkdir()
        config = (self.run.path / "envoy.yaml").read_text(encoding="utf-8")
        run = EnvoyRun(place, place, options=ENVOY_OPTIONS)
        self.envoys = AsyncExitStack()
        envoy = await self.envoys.enter_async_context(
            listening_envoy(Children(), run=run, config=config)
        )
        self.admin_url = envoy.admin_url
        self.load.url = f"http://127.0.0.1:{envoy.ports['http']}"


async def _as_awaited(value: bool) -> bool:  # noqa: FBT001 - a condition
    return value


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so.

    Raises:
        TimeoutError: it never is.
    """
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(POLL_SECONDS)


async def _received(world: World) -> int:
    async with world.client.get(f"{world.facts.mock_debug_url}/count") as answer:
        return int((await answer.json())["count"])


@dataclass(frozen=True, slots=True)
class Blow:
    """A fault injected under load; requests being checked at that moment may fail by some."""

    name: str
    strike: Callable[[], Awaitable[None]]
    may_fail: bool = False


async def tally(world: World, blow: Blow, strikes: Iterable[object]) -> Tally:
    """Put load on, strike so many times, and count."""
    load, done = world.load, asyncio.Event()
    load.answered, load.failures = 0, []
    before, struck = await _received(world), list[float]()
    sending = asyncio.ensure_future(load.run(Sending(), done))
    try:
        for _ in strikes:
            await load.answers(BETWEEN)
            struck.append(time.monotonic())
            await blow.strike()
    finally:
        done.set()
        await sending
    return Tally(
        blow.name,
        rounds=len(struck),
        answered=load.answered,
        failed=len(load.failures),
        had_verdict=await _received(world) - before - load.answered,
        sent_later=sum(is_later(one, struck) for one in load.failures),
        may_fail=blow.may_fail,
        kinds=tuple(
            f"{count} x {name}"
            for name, count in Counter(one.name for one in load.failures).items()
        ),
    )


def is_later(failed: Failed, struck: Sequence[float]) -> bool:
    """Return whether a request was sent after the last fault that can have failed it."""
    return failed.begun > max((when for when in struck if when < failed.ended), default=-math.inf)


async def prove(rounds: int, console: Console) -> tuple[Tally, ...]:
    """Run everything."""
    async with AsyncExitStack() as parts:
        place = parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-restart-"))
        run = parts.enter_context(run_directory(Path(place) / "run"))
        options = StackOptions(workers=WORKERS, traces=False, worker_settings=PATIENT)
        stack = await parts.enter_async_context(running_stack(options, run=run))
        client = await parts.enter_async_context(aiohttp.ClientSession())
        facts = stack.facts
        async with client.post(
            f"{facts.mock_debug_url}/delay", json={"event_ms": EVENT_MS}
        ) as set_:
            set_.raise_for_status()
        world = World(facts, run, RestartLoad(facts.url, facts.key.get_secret_value()), client)
        await world.start_envoy()
        parts.push_async_callback(lambda: world.envoys.aclose())  # noqa: PLW0108 - of the last
        progress = parts.enter_context(Progress(console=console, disable=not console.is_terminal))
        blows = (
            Blow("a worker killed", world.kill_worker, may_fail=True),
            Blow("a worker stopped", world.stop_worker),
            Blow("Envoy replaced", world.replace_envoy),
        )
        found = []
        for blow in blows:
            strikes = progress.track(range(rounds), description=blow.name)
            found.append(await tally(world, blow, strikes))
            console.print(f"{blow.name}: {found[-1].failed} of {found[-1].sent} failed")
        return tuple(found)


@prints_failure
def main() -> int:
    """Prove it, or print the failures."""
    given = _options()
    run = circumstances()
    console = new_console()
    tallies = asyncio.run(prove(given.rounds, console))
    grid = tally_grid(tallies)
    grid.show(console)
    faults = [fault for one in tallies for fault in one.faults]
    for fault in faults:
        console.print(f"WRONG: {fault}", markup=False, style="red")
    write_json("prove-restarts", tally_figures(tallies), run)
    if given.markdown and not faults:
        text = f"{run.as_sentence()}\n\n{grid.as_markdown()}"
        write_section("restarts", text)
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.prove_restarts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
