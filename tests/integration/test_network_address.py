"""The gRPC server on a port, for an Envoy on another machine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.extproc.stream import Call, StreamEnd
from sidecar.server.grpc_server import GrpcServer
from sidecar.server.options import NetworkAddress, ServerOptions, SocketError, TlsFiles
from tests.support.authority import Authority

HOST = "127.0.0.1"
NAME = "egret.test"


async def _never(stream: Call, metadata: Mapping[str, str]) -> StreamEnd:
    del stream, metadata
    raise AssertionError("nothing converses here")


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server((HOST, 0)) as taken:
        return int(taken.getsockname()[1])


def options(folder: Path, tls: TlsFiles | None) -> ServerOptions:
    """Return options for a socket and a port."""
    return ServerOptions(
        socket_path=folder / "worker-0.sock",
        socket_mode=0o600,
        max_message_bytes=1 << 20,
        drain_delay_seconds=0.0,
        drain_grace_seconds=1.0,
        network=NetworkAddress(HOST, free_port(), tls),
    )


@asynccontextmanager
async def serving(options: ServerOptions) -> AsyncIterator[str]:
    """Serve, ready, and return the port's address."""
    server = GrpcServer(options, _never)
    await server.start()
    server.set_ready(is_ready=True)
    yield str(options.network)
    await server.drain()


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "server")


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "clients")


@pytest.fixture
def files(ours: Authority, clients: Authority) -> TlsFiles:
    own = ours.identity(NAME)
    return TlsFiles(own["cert_file"], own["key_file"], clients.ca_file)


def credentials(server: Authority, identity: Mapping[str, Path]) -> grpc.ChannelCredentials:
    """Return what a client trusts, and what it shows."""
    return grpc.ssl_channel_credentials(
        server.ca_file.read_bytes(),
        identity["key_file"].read_bytes() if identity else None,
        identity["cert_file"].read_bytes() if identity else None,
    )


async def health(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """Return what a health check on a connection of its own finds: a state, or a status."""
    named = [("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.aio.insecure_channel(address, named)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, named)
    )
    async with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_who_has_a_certificate_of_the_clients_authority_is_served(
    tmp_path: Path, files: TlsFiles, ours: Authority, clients: Authority
) -> None:
    """On the port, and whoever is on this machine on the socket as before."""
    chosen = options(tmp_path, files)
    async with serving(chosen) as address:
        envoy = credentials(ours, clients.identity("envoy"))
        assert await health(address, envoy) == "SERVING"
        assert await health(f"unix:{chosen.socket_path}", None) == "SERVING"


@pytest.mark.parametrize("who", ["without a certificate", "of another authority", "without TLS"])
async def test_nobody_else_is_served(
    tmp_path: Path, files: TlsFiles, ours: Authority, who: str
) -> None:
    """They could try keys, or report usage that never was."""
    shown = {
        "without a certificate": credentials(ours, {}),
        "of another authority": credentials(ours, ours.identity("envoy", file="stranger")),
        "without TLS": None,
    }
    async with serving(options(tmp_path, files)) as address:
        assert await health(address, shown[who]) == "UNAVAILABLE"


async def test_certificates_are_rotated_without_a_restart(
    tmp_path: Path, files: TlsFiles, ours: Authority, clients: Authority
) -> None:
    """Both sides change their authority; who shows the old one is refused from then on."""
    old = credentials(ours, clients.identity("envoy"))
    async with serving(options(tmp_path, files)) as address:
        assert await health(address, old) == "SERVING"
        new_ours, new_clients = Authority(tmp_path / "server2"), Authority(tmp_path / "clients2")
        identity = new_ours.identity(NAME)
        identity["key_file"].replace(files.key)
        identity["cert_file"].replace(files.certificate)
        new = credentials(new_ours, new_clients.identity("envoy"))
        new_clients.ca_file.replace(files.client_ca)

        assert await health(address, new) == "SERVING"
        assert await health(address, old) == "UNAVAILABLE"


@pytest.mark.parametrize("change", ["key alone", "garbage", "gone"])
async def test_files_that_do_not_fit_leave_the_last_good_ones_in_force(
    tmp_path: Path,
    files: TlsFiles,
    ours: Authority,
    clients: Authority,
    change: str,
) -> None:
    """A rotation that is half done, or went wrong."""
    envoy = credentials(ours, clients.identity("envoy"))
    async with serving(options(tmp_path, files)) as address:
        if change == "key alone":
            ours.identity(NAME, file="next")["key_file"].replace(files.key)
        elif change == "garbage":
            files.client_ca.write_text("no certificate")
        else:
            files.certificate.unlink()
        assert await health(address, envoy) == "SERVING"


@pytest.mark.parametrize("fault", ["key of another", "no file", "garbage"])
async def test_files_that_do_not_fit_at_the_start_are_named(
    tmp_path: Path, files: TlsFiles, ours: Authority, fault: str
) -> None:
    """It would start otherwise, and refuse every connection."""
    if fault == "key of another":
        files = replace(files, key=ours.identity(NAME, file="next")["key_file"])
    elif fault == "garbage":
        files.client_ca.write_text("no certificate")
    else:
        files = replace(files, certificate=tmp_path / "none.pem")
    with pytest.raises(SocketError, match=r"cannot serve TLS with .*PEM files that match"):
        await GrpcServer(options(tmp_path, files), _never).start()


async def test_behind_a_mesh_the_port_is_plain(tmp_path: Path) -> None:
    """Where the mesh has the certificates."""
    async with serving(options(tmp_path, None)) as address:
        assert await health(address, None) == "SERVING"


async def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    """Two on one port would share its connections by chance."""
    async with serving(options(tmp_path, None)) as address:
        port = int(address.rpartition(":")[2])
        second = replace(
            options(tmp_path / "second", None), network=NetworkAddress(HOST, port, None)
        )
        with pytest.raises(SocketError, match=f"cannot bind {address}"):
            await GrpcServer(second, _never).start()
