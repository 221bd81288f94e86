"""What the care around a remote guardrail costs, and a round trip to a server of each kind.

    python -m loadtest.bench_remote [--quick]

The servers are in this very process: a round trip has their share in it. Prints a table and
writes build/bench/bench-remote.json.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import grpc
import grpc.aio
import uvloop
from aiohttp import web

from loadtest.figures import percentile
from loadtest.results import Grid, circumstances, new_console, write_json
from loadtest.texts import benign_text
from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    RemoteCare,
    RemoteEndpoint,
    RemoteSettings,
    WebhookSettings,
)
from sidecar.domain.policy import Guardrail, Stage
from sidecar.domain.subject import Subject, TextPart
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest
from sidecar.guardrails.remote.grpc_client import GrpcChecks
from sidecar.guardrails.remote.http import HttpClient
from sidecar.guardrails.remote.resilience import CarefulChecks, Surroundings
from sidecar.guardrails.remote.verdict_cache import AnswerCache
from sidecar.guardrails.remote.webhook import WebhookChecks
from sidecar.guardrails.runner import InspectionSubject

SIZES: Final = {"1k": 1 << 10, "8k": 1 << 13, "64k": 1 << 16}
SECONDS: Final = 2.0
QUICK_SECONDS: Final = 0.1
NOWHERE: Final = RemoteEndpoint("http://127.0.0.1:9/")

Check = Callable[[RemoteRequest], Awaitable[RemoteAnswer]]


class _AtOnce:
    """A server without a way to it: what is left is the care."""

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        del request
        return RemoteAnswer("pass")


def _careful() -> CarefulChecks:
    return CarefulChecks(
        _AtOnce(),
        cache=AnswerCache(clock=time.monotonic, secret=b"0" * 32),
        surroundings=Surroundings(
            clock=time.monotonic,
            jitter=random.random,
            longest_seconds=5.0,
            on_breaker=lambda _, __: None,
        ),
    )


def _request(settings: RemoteSettings, size: int) -> RemoteRequest:
    part = TextPart(content=benign_text(size).encode(), location=(0,), role="user")
    return RemoteRequest(
        Guardrail("bench", settings),
        Subject(model=None, streamed=False, parts=(part,)),
        InspectionSubject(request_id="r", key_id="k"),
        stage=Stage.INPUT,
    )


async def _timed_us(check: Check, request: RemoteRequest, *, seconds: float) -> list[float]:
    await check(request)
    taken: list[float] = []
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        started_at = time.perf_counter()
        await check(request)
        taken.append((time.perf_counter() - started_at) * 1e6)
    return taken


async def _measure(seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}

    async def take(name: str, check: Check, settings: RemoteSettings) -> None:
        for size, characters in SIZES.items():
            taken = await _timed_us(check, _request(settings, characters), seconds=seconds)
            figures[f"{name}.{size}.p50_us"] = percentile(taken, 50)
            figures[f"{name}.{size}.p99_us"] = percentile(taken, 99)

    cached, hedged = RemoteCare(cache_seconds=600.0), RemoteCare(hedge_after_seconds=1.0)
    await take("care", _careful().check, WebhookSettings(NOWHERE))
    await take("care_with_hedge", _careful().check, WebhookSettings(NOWHERE, hedged))
    await take("cache_hit", _careful().check, WebhookSettings(NOWHERE, cached))
    async with _webhook() as url, HttpClient() as http:
        await take("webhook", WebhookChecks(http).check, WebhookSettings(RemoteEndpoint(url)))
    async with _grpc() as url, GrpcChecks() as checks:
        await take("grpc", checks.check, GrpcSettings(RemoteEndpoint(url)))
    return figures


@asynccontextmanager
async def _webhook() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"verdict": "pass"})

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _grpc() -> AsyncIterator[str]:
    said = guardrail.CheckResponse(verdict=guardrail.VERDICT_PASS).SerializeToString()

    async def check(_: bytes, __: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return said

    handler = grpc.method_handlers_generic_handler(
        "egret.guardrail.v1.GuardrailService",
        {"Check": grpc.unary_unary_rpc_method_handler(check)},
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        await server.stop(0)


def main() -> int:
    """Measure, show and write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench_remote", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth: a smoke test")
    seconds = QUICK_SECONDS if parser.parse_args().quick else SECONDS
    run = circumstances(" ".join(["python -m loadtest.bench_remote", *sys.argv[1:]]))
    console = new_console()
    with console.status("remote guardrails …"):
        figures = uvloop.run(_measure(seconds))
    names = dict.fromkeys(key.partition(".")[0] for key in figures)
    rows = [
        [
            name.replace("_", " "),
            size,
            *(f"{figures[f'{name}.{size}.p{p}_us']:,.0f}" for p in (50, 99)),
        ]
        for name in names
        for size in SIZES
    ]
    Grid("Remote guardrails", ("what", "text", "p50 µs", "p99 µs"), rows, labels=2).show(console)
    console.print(f"\nWritten to {write_json('bench-remote', figures, run)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
