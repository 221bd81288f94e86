"""Runs cases against a server: Envoy and the upstream are started, one case follows another."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from egret_tools.conformance.case import Case, Framing, Message, Protocol
from egret_tools.conformance.compare import Seen, differences
from egret_tools.conformance.envoy_setup import (
    Counters,
    envoy_config,
    is_busy,
    read_counters,
    since,
)
from egret_tools.conformance.http1 import connect_http1
from egret_tools.conformance.http2 import connect_http2
from egret_tools.conformance.modes import MODES
from egret_tools.conformance.passing import passing_processor
from egret_tools.conformance.target import Target
from egret_tools.conformance.upstream import CHAT_ANSWER, Answering, Upstream, running_upstream
from egret_tools.conformance.wire import BrokenOffError, Connection, Outgoing, RawHeaders, Received
from egret_tools.devstack.envoy import EnvoyRun, listening_envoy
from egret_tools.devstack.processes import Children

CASE_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 2.0
"""How long counters and streams may lag behind an answer."""
QUIET_SECONDS: Final = 0.5
"""After so long without any request in Envoy a difference is final."""
POLL_SECONDS: Final = 0.01

_BROKEN_OFF: Final = Received(status=0, is_whole=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a run. `headers` are those that let a request pass."""

    target: Target
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    envoy: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One case in one mode over one protocol."""

    case: Case
    mode: str
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Result:
    """Its outcome; without differences it conforms, if it was run."""

    run: Run
    differences: tuple[str, ...]
    milliseconds: float
    was_run: bool = True

    @property
    def conforms(self) -> bool:
        """Whether it was run, and nothing differed."""
        return self.was_run and not self.differences


ORDINARY: Final = ("a body with a length", "a body without a length", "an answer without a length")
"""Cases that every server passes in a mode that it serves at all."""
LEAST_ORDINARY: Final = 4
"""Runs of those that must differ before a mode counts as not served."""


def runs_of(cases: Iterable[Case], *, modes: Sequence[str] = ()) -> list[Run]:
    """Return every run of the cases, in these modes or in all of their own.

    They are in order of modes, ordinary cases first.
    """
    runs = [
        Run(case, mode, protocol)
        for case in cases
        for mode in case.modes
        if not modes or mode in modes
        for protocol in case.protocols
    ]
    by_mode = list(MODES)
    return sorted(runs, key=lambda run: (by_mode.index(run.mode), run.case.name not in ORDINARY))


async def results_of(
    runs: Sequence[Run], options: Options, *, gives_up: bool = False
) -> AsyncIterator[Result]:
    """Yield the result of each run.

    With *gives_up* a mode whose ordinary cases all differ is left: its other cases are not run.

    Raises:
        PartError: Envoy does not come up.
    """
    modes = dict.fromkeys(run.mode for run in runs)
    async with _running_bench(options, modes=tuple(modes)) as bench:
        failed: Counter[str] = Counter()
        ordinary = Counter(run.mode for run in runs if run.case.name in ORDINARY)
        for run in runs:
            is_unserved = failed[run.mode] == ordinary[run.mode] >= LEAST_ORDINARY
            if gives_up and is_unserved and run.case.name not in ORDINARY:
                yield Result(run, (), 0.0, was_run=False)
                continue
            started_at = time.monotonic()
            found = await bench.differences(run)
            failed[run.mode] += bool(found) and run.case.name in ORDINARY
            yield Result(run, tuple(found), (time.monotonic() - started_at) * 1000)


@asynccontextmanager
async def _running_bench(options: Options, *, modes: Sequence[str]) -> AsyncIterator[_Bench]:
    async with AsyncExitStack() as parts:
        place = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="egret-conf-")))
        upstream, port = await parts.enter_async_context(running_upstream())
        other = place / "other.sock"
        await parts.enter_async_context(passing_processor(other))
        config = envoy_config(options.target, upstream_port=port, modes=modes, other=other)
        run = EnvoyRun(place, place, threads=1, program=options.envoy)
        envoy = await parts.enter_async_context(
            listening_envoy(Children(), run=run, config=config)
        )
        client = await parts.enter_async_context(aiohttp.ClientSession())
        yield _Bench(options, upstream, envoy.admin_url, envoy.ports, client)


@dataclass(frozen=True, slots=True)
class _Bench:
    """Envoy and the upstream, ready for cases."""

    options: Options
    upstream: Upstream
    admin_url: str
    ports: dict[str, int]
    client: aiohttp.ClientSession

    async def differences(self, run: Run) -> list[str]:
        """Send the requests of the case and compare; later effects get a moment."""
        case = run.case
        sent = [_outgoing(case, self.options, number) for number in range(_total(case))]
        self.upstream.begin(_answering(case))
        before = await read_counters(self.client, self.admin_url, mode=run.mode)
        try:
            async with asyncio.timeout(CASE_SECONDS):
                received = await self._exchange(run, sent)
        except TimeoutError:
            seen = await self._seen(run, sent, (), before=before)
            return [f"answer: none within {CASE_SECONDS:g} s", *differences(case, seen)]
        except OSError as error:
            return [f"answer: no connection to Envoy ({type(error).__name__})"]
        deadline = time.monotonic() + SETTLE_SECONDS
        busy_at = time.monotonic()
        while True:
            seen = await self._seen(run, sent, received, before=before)
            found = differences(case, seen)
            now = time.monotonic()
            if is_busy(seen.counted):
                busy_at = now
            elif not found or now - busy_at > QUIET_SECONDS:
                return found
            if now > deadline:
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def _seen(
        self, run: Run, sent: Sequence[Outgoing], received: Sequence[Received], *, before: Counters
    ) -> Seen:
        now = await read_counters(self.client, self.admin_url, mode=run.mode)
        record = self.upstream.record
        return Seen(
            sent=tuple(sent),
            answering=record.answering,
            received=tuple(received),
            arrived=tuple(record.arrived),
            unreadable=record.unreadable,
            counted=since(before, now),
        )

    async def _exchange(self, run: Run, sent: Sequence[Outgoing]) -> list[Received]:
        times = run.case.request.times
        shares = [sent[start : start + times] for start in range(0, len(sent), times)]
        port = self.ports[run.mode]
        done = await asyncio.gather(*(_one_by_one(run.protocol, port, share) for share in shares))
        return [received for share in done for received in share]


async def _one_by_one(
    protocol: Protocol, port: int, requests: Sequence[Outgoing]
) -> list[Received]:
    """Send requests over one connection, one after another."""
    connection: Connection = (
        await connect_http1(port) if protocol is Protocol.HTTP1 else await connect_http2(port)
    )
    try:
        return [await connection.exchange(request) for request in requests]
    except BrokenOffError:
        return [_BROKEN_OFF]
    finally:
        await connection.close()


def _total(case: Case) -> int:
    return case.request.times * case.request.connections


def _outgoing(case: Case, options: Options, number: int) -> Outgoing:
    request = case.request
    given = options.headers if request.with_key else ()
    body = _body(request, number)
    has_type = any(name == "content-type" for name, _ in request.headers)
    typed = () if body is None or has_type else (("content-type", "application/json"),)
    pieces = () if body is None else _cut(body, request.pieces)
    return Outgoing(
        method=request.method,
        path=request.path or options.path,
        headers=_raw((*given, *typed, *request.headers)),
        pieces=pieces,
        length=len(body) if body is not None and request.framing is Framing.LENGTH else None,
        pause_seconds=request.pause_ms / 1000,
        trailers=_raw(request.trailers),
        leaves_after_pieces=request.leaves_after_pieces,
    )


def _answering(case: Case) -> Answering:
    respond = case.respond
    body = _body(respond, 0)
    body = CHAT_ANSWER if body is None else body
    has_type = any(name == "content-type" for name, _ in respond.headers)
    typed = () if has_type else (("content-type", "application/json"),)
    return Answering(
        status=respond.status,
        headers=_raw((*typed, *respond.headers)),
        pieces=_cut(body, respond.pieces),
        length=len(body) if respond.framing is Framing.LENGTH else None,
        pause_seconds=respond.pause_ms / 1000,
        before_body=respond.before_body,
        hangs_up=respond.hangs_up,
    )


def _body(message: Message, number: int) -> bytes | None:
    """Return the body; the number distinguishes requests of a case."""
    if message.body_bytes is None:
        return (
            None
            if message.body is None
            else message.body.replace("{number}", str(number)).encode()
        )
    words = "the quick brown fox jumps over the lazy dog "
    text = f"{number} " + words * (message.body_bytes // len(words) + 1)
    return (
        '{"model":"conformance","messages":[{"role":"user","content":"'
        f'{text[: message.body_bytes]}"}}]}}'
    ).encode()


def _cut(body: bytes, pieces: int) -> tuple[bytes, ...]:
    """Cut a body into as many pieces, as equal as they can be; an empty one has none."""
    size = max(1, -(-len(body) // pieces))
    return tuple(body[start : start + size] for start in range(0, len(body), size))


def _raw(headers: Iterable[tuple[str, str]]) -> RawHeaders:
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers)
