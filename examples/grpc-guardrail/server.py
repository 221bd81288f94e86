"""A guardrail over gRPC that redacts project names. Start here, and write your own `Check`.

python server.py [--address 127.0.0.1:50051]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal

import grpc
from egret.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

PROJECT = re.compile(r"\bproject (?:bluebird|kingfisher)\b", re.IGNORECASE)


class ProjectNames(guardrail_pb2_grpc.GuardrailServiceServicer):
    """Finds the names of projects that are not public."""

    async def Check(  # noqa: N802 - the protocol's name
        self, request: guardrail_pb2.CheckRequest, context: grpc.aio.ServicerContext
    ) -> guardrail_pb2.CheckResponse:
        """Judge all texts. Spans are in characters, as `re` counts them."""
        del context  # has the policy's headers as metadata, and the deadline
        findings = [
            guardrail_pb2.Finding(
                text=index, start=match.start(), end=match.end(), type="PROJECT_NAME"
            )
            for index, text in enumerate(request.texts)
            for match in PROJECT.finditer(text.text)
        ]
        if not findings:
            return guardrail_pb2.CheckResponse(verdict=guardrail_pb2.VERDICT_PASS)
        return guardrail_pb2.CheckResponse(verdict=guardrail_pb2.VERDICT_REDACT, findings=findings)


async def serve(address: str) -> None:
    """Serve until SIGTERM or SIGINT, then let what is under way end."""
    server = grpc.aio.server()
    guardrail_pb2_grpc.add_GuardrailServiceServicer_to_server(ProjectNames(), server)
    states = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    port = server.add_insecure_port(address)
    await server.start()
    await states.set("", health_pb2.HealthCheckResponse.SERVING)
    print(f"serving on port {port}", flush=True)  # noqa: T201 - for whoever started it
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await stopping.wait()
    await server.stop(grace=5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default="127.0.0.1:50051")
    asyncio.run(serve(parser.parse_args().address))
