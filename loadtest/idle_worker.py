"""A worker that judges nothing: the transport and the exchange alone, for what the rest adds.

    python -m loadtest.idle_worker ENGINE SOCKET

It asks for the body, gets it and sends it on, as a worker does for the default policy.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import uvloop

from sidecar.checks.load import Load
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import NO_CHANGE, Headers
from sidecar.domain.mutations import Refusal, RequestMutations
from sidecar.domain.report import FaultKind
from sidecar.exchange.events import (
    BodyRequired,
    RequestCleared,
    RequestRefused,
    ResponseCleared,
    ResponseJudged,
    ResponsePieceJudged,
)
from sidecar.exchange.machine import Exchange
from sidecar.settings.serving import Engine, ExchangeSettings, ServerSettings
from sidecar.transport.conversation import Budgets, Conversation, Stream
from sidecar.transport.engine import EngineOptions
from sidecar.transport.judge import Ending
from sidecar.worker.worker import engine_type

_LIMITS: Final = ExchangeSettings()
_BUDGETS: Final = Budgets(
    authorize_seconds=_LIMITS.authorize_seconds,
    body_seconds=_LIMITS.body_seconds,
    body_idle_seconds=_LIMITS.body_idle_seconds,
    inspect_seconds=_LIMITS.inspect_seconds,
)


class IdleJudge:
    """Clears every request as it is; never sees an answer."""

    def judge_headers(
        self, headers: Headers, *, has_body: bool, source_address: str | None = None
    ) -> BodyRequired | RequestCleared:
        """Ask for the body, where there is one."""
        del headers, source_address
        return BodyRequired() if has_body else RequestCleared(RequestMutations(NO_CHANGE))

    def judge_body(self, body: bytes, *, may_judge_answer: bool = True) -> RequestCleared:
        """Let it go on."""
        del body, may_judge_answer
        return RequestCleared(RequestMutations(NO_CHANGE))

    def judge_response_headers(
        self, headers: Headers, *, has_body: bool, may_stream: bool
    ) -> ResponseCleared:
        """Let the answer go on."""
        del headers, has_body, may_stream
        return ResponseCleared(NO_CHANGE)

    def judge_response_piece(self, body: bytes, *, is_last: bool) -> ResponsePieceJudged:
        """Let the piece go on."""
        del is_last
        return ResponsePieceJudged(body)

    def judge_response_body(self, body: bytes) -> ResponseJudged:
        """Let the answer go on."""
        del body
        return ResponseJudged(NO_CHANGE)

    def word_refusal(self, kind: ErrorKind) -> RequestRefused:
        """Refuse without words: nothing here is meant to fail."""
        return RequestRefused(Refusal(status=500, headers=(), body=b"", details=kind.value))

    def note_fault(self, fault: FaultKind, error: BaseException | None = None) -> None:
        """Tell whoever reads the log of the bench."""
        print(f"fault: {fault.value} {error!r}", file=sys.stderr)

    def close(self, *, is_cancelled: bool, is_answered: bool) -> None:
        """Keep nothing."""


async def serve(engine: Engine, socket: Path) -> None:
    """Serve until told to stop."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    judge = IdleJudge()
    load = Load(max_exchanges=_LIMITS.max_exchanges, max_held_bytes=_LIMITS.max_held_bytes)

    async def converse(stream: Stream, metadata: Mapping[str, str]) -> Ending:
        del metadata
        exchange = Exchange(max_body_bytes=_LIMITS.max_body_bytes, wants_response_headers=False)
        return await Conversation(
            stream=stream, exchange=exchange, judge=judge, budgets=_BUDGETS, load=load
        ).run()

    server = ServerSettings()
    options = EngineOptions(
        socket_path=socket,
        socket_mode=server.socket_mode,
        max_message_bytes=server.max_message_bytes,
        drain_delay_seconds=0,
        drain_grace_seconds=1,
    )
    serving = engine_type(engine)(options, converse, None)
    await serving.start()
    await serving.set_ready(is_ready=True)
    await stopping.wait()
    await serving.drain()


if __name__ == "__main__":
    uvloop.run(serve(Engine(sys.argv[1]), Path(sys.argv[2])))
