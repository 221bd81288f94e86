from __future__ import annotations

import asyncio
import subprocess
import sys

from sidecar._generated.egret.guardrail.v1 import guardrail_pb2 as guardrail
from sidecar.domain.guardrail_settings import GrpcSettings, RemoteEndpoint
from sidecar.guardrails.remote.checks import RemoteAnswer
from tests.support.grpc_guardrail import grpc_server, saying
from tests.support.remote_checks import asking, remote_checks


def test_a_worker_does_not_load_grpc_before_a_guardrail_needs_it() -> None:
    """It never does, as long as no policy names a gRPC server."""
    program = "import sys, sidecar.worker.worker; print('grpc' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


async def test_first_checks_at_the_same_time_share_one_client() -> None:
    """However many wait for it to be loaded."""
    said = guardrail.CheckResponse(verdict=guardrail.VERDICT_PASS)
    async with grpc_server(saying(said)) as server, remote_checks() as checks:
        request = asking(GrpcSettings(RemoteEndpoint(server.url)), "text")
        answers = await asyncio.gather(*(checks.check(request) for _ in range(5)))
    assert answers == [RemoteAnswer("pass")] * 5
    assert len(set(server.peers)) == 1
