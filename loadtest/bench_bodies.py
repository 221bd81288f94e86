"""The cost of a request's body on its way through a worker, streamed and kept by Envoy.

    python -m loadtest.bench_bodies [--seconds 2] [--rounds 3] [--markdown]

The server is Egret's own with its protocol, and judges nothing: it asks for each
body and lets it go on. So its CPU time is that of the transport. In the mode *streamed*, which
Egret uses, Envoy sends a body in pieces, and receives it back; in the mode *kept* Envoy keeps it
and sends one message. If Go is installed, a server in Go streams the same bodies. Sizes and modes
take turns. Prints the lowest of the rounds, and writes build/bench/bench-bodies.json.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import uvloop
from egret_tools.devstack.run_directory import run_directory

from loadtest.bench_against import GO, build_floor
from loadtest.bench_stack import HERE, StackOptions, running_gateways
from loadtest.figures import per_request_us
from loadtest.generators import put_load
from loadtest.load import Load, LoadError, Target
from loadtest.processes import cpu_seconds
from loadtest.recorded import BUDGETS
from loadtest.results import ROOT, Grid, Report, prints_failure, publish
from loadtest.texts import chat_body
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Refusal
from sidecar.extproc.phases import Event
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.extproc.stream import (
    Call,
    ExtProcStream,
    OverloadGuard,
    OvertakenError,
    StreamEnd,
)
from sidecar.server.grpc_server import GrpcServer
from sidecar.server.options import ServerOptions
from sidecar.worker.runtime import keep_freed_memory

SIZES: Final = {"1 KB": 1_000, "64 KB": 64 << 10, "256 KB": 256 << 10, "1 MB": 1_000_000}
MODES: Final = ("streamed", "kept")
LOAD: Final = Load("c4", 4)
MAX_BODY_BYTES: Final = 1 << 24


@prints_failure
def main() -> int:
    """Measure, show and write, or serve; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="write docs/performance.md")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(_serve(options.serve))
        return 0
    report = Report("bench-bodies", "bodies", for_page=options.markdown)
    figures = asyncio.run(_measure(options.seconds, options.rounds))
    modes = [mode for mode in (*MODES, GO) if f"{mode}.64 KB.worker_cpu_us" in figures]
    columns = (
        "body",
        *(
            f"{_WORDS.get(mode, mode)}, {of} CPU µs"
            for mode in modes
            for of in ("worker", "Envoy")
        ),
    )
    rows = [
        [size, *(f"{figures[f'{mode}.{size}.{of}']:,.0f}" for mode in modes for of in _OF)]
        for size in SIZES
    ]
    grid = Grid("CPU time of a request, nothing judged", columns, rows)
    report.write(figures, grid)
    if options.markdown:
        publish("bench-bodies")
    return 0


_OF: Final = ("worker_cpu_us", "envoy_cpu_us")
_WORDS: Final = {GO: "a server in Go"}


async def _measure(seconds: float, rounds: int) -> Mapping[str, float]:
    figures: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="egret-bench-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        server, body = Path(place) / "server", Path(place) / "body.json"
        server.write_text(
            f"#!/bin/sh\nPYTHONPATH={ROOT}:{ROOT}/tools"
            f' exec {sys.executable} -m loadtest.bench_bodies --serve "$1"\n'
        )
        server.chmod(0o700)
        servers = dict.fromkeys(MODES, server)
        if (floor := await asyncio.to_thread(build_floor)) is not None:
            servers[GO] = floor
        modes = tuple(servers)
        stack = StackOptions(servers=servers, buffered=("kept",))
        async with running_gateways((HERE,), run=run, options=stack) as gateways:
            for number in range(rounds):
                for size, length in SIZES.items():
                    body.write_bytes(chat_body(length))
                    for mode in modes if number % 2 == 0 else modes[::-1]:
                        gateway = gateways[mode]
                        target = Target(gateway.url, gateway.key, body)
                        pids = (gateway.supervisor_pid or 0, gateway.envoy_pid)
                        before = [cpu_seconds((pid,)) for pid in pids]
                        found = await put_load(
                            LOAD, target=target, seconds=seconds, scratch=run.path
                        )
                        if found.errors:
                            raise LoadError(f"{found.errors} requests failed: {mode}, {size}")
                        for of, pid, start in zip(_OF, pids, before, strict=True):
                            used = per_request_us(cpu_seconds((pid,)) - start, found.requests)
                            name = f"{mode}.{size}.{of}"
                            figures[name] = min(used, figures.get(name, used))
    return figures


class _PassAll:
    """Asks for the body of each request and lets it go on."""

    async def judge(self, stream: ExtProcStream) -> Refusal | None:
        """Carry the request to its end."""
        protocol = stream.protocol
        try:
            await stream.receive(Event.REQUEST_HEADERS)
            if protocol.has_body:
                protocol.require_body(("authorization",))
                await stream.receive(Event.REQUEST_BODY)
                protocol.body()
            protocol.forward(removed=("authorization",))
            await stream.receive()
        except OvertakenError:  # the load has ended
            pass
        return None

    def note(self, error: Exception) -> ErrorKind:
        """Fail."""
        raise error

    def refusal(self, kind: ErrorKind) -> Refusal:
        """Fail: nothing is refused."""
        raise AssertionError(kind)

    def finish(self, protocol: ExtProcProtocol, end: StreamEnd) -> None:
        """Report nothing."""


async def _serve(socket: Path) -> None:
    keep_freed_memory()
    guard, handler = OverloadGuard(max_exchanges=1024, max_held_bytes=1 << 28), _PassAll()

    async def serve(call: Call, _: Mapping[str, str]) -> StreamEnd:
        protocol = ExtProcProtocol(
            max_body_bytes=MAX_BODY_BYTES, wants_answer_headers=False, room=guard
        )
        return await ExtProcStream(call, protocol, BUDGETS).run(handler)

    async def receive_log(_: bytes) -> bytes:
        return b""

    options = ServerOptions(
        socket_path=socket,
        socket_mode=0o600,
        max_message_bytes=2 * MAX_BODY_BYTES,
        drain_delay_seconds=0,
        drain_grace_seconds=1,
    )
    server = GrpcServer(options, serve, receive_log)
    await server.start()
    server.set_ready(is_ready=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
