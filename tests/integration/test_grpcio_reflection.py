"""Reflection of the grpc.aio engine: what grpcurl is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.extproc.stream import Call, StreamEnd
from sidecar.server.engine import SERVICE_NAME, EngineOptions
from sidecar.server.grpcio import GrpcioEngine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sockets" / "worker-0.sock"


async def _never(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    del stream, metadata
    raise AssertionError("nothing converses here")


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """Serve on *path* and return a channel to it."""
    options = EngineOptions(
        socket_path=path,
        socket_mode=0o600,
        max_message_bytes=1 << 20,
        drain_delay_seconds=0.0,
        drain_grace_seconds=1.0,
    )
    engine = GrpcioEngine(options, _never)
    await engine.start()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield channel
    await engine.drain()


async def reflect(
    channel: grpc.aio.Channel, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    """Return the one answer to *request*."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    async for answer in stub.ServerReflectionInfo(iter([request])):
        return answer
    raise AssertionError("reflection gave no answer")


def pool_of(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> DescriptorPool:
    """Return a pool of *files*, which must hold all they import."""
    pool = DescriptorPool()
    by_name = {file.name: file for file in files}

    def add(name: str) -> None:
        file = by_name.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in list(by_name):
        add(name)
    return pool


async def test_reflection_lists_the_services_of_the_socket(path: Path) -> None:
    """Grpcurl can show what is served."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async with serving(path) as channel:
        answer = await reflect(channel, request)
    assert {service.name for service in answer.list_services_response.service} == {
        SERVICE_NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    "symbol", [SERVICE_NAME, "grpc.health.v1.Health"], ids=["ext_proc", "health"]
)
async def test_reflection_resolves_a_service_with_all_it_needs(path: Path, symbol: str) -> None:
    """The files that come back load into an empty pool and hold the service."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    async with serving(path) as channel:
        answer = await reflect(channel, request)
    files = answer.file_descriptor_response.file_descriptor_proto
    pool = pool_of(descriptor_pb2.FileDescriptorProto.FromString(file) for file in files)
    assert pool.FindServiceByName(symbol).full_name == symbol
