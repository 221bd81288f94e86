"""TLS of a port: whose certificates are accepted, before and after files are replaced."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from sidecar.server.options import SocketError, TlsFiles
from sidecar.server.tls import rotating_context
from tests.support.authority import encrypt

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Parties:
    """A server with its files, and a client of the CA that it trusts first."""

    def __init__(self, place: Path) -> None:
        self.own, self.clients = trustme.CA(), trustme.CA()
        certificate = self.own.issue_cert("localhost")
        self.files = TlsFiles(
            certificate=place / "tls.crt", key=place / "tls.key", client_ca=place / "ca.crt"
        )
        certificate.cert_chain_pems[0].write_to_path(self.files.certificate)
        certificate.private_key_pem.write_to_path(self.files.key)
        self.clients.cert_pem.write_to_path(self.files.client_ca)

    def trust(self, authority: trustme.CA) -> None:
        """Replace the CA of clients by a rename, as Kubernetes does."""
        new = self.files.client_ca.with_suffix(".new")
        authority.cert_pem.write_to_path(new)
        new.rename(self.files.client_ca)

    def client(self, version: ssl.TLSVersion, authority: trustme.CA) -> ssl.SSLContext:
        """Return the context of a client with a certificate of *authority*."""
        context = ssl.create_default_context()
        self.own.configure_trust(context)
        authority.issue_cert("envoy.example").configure_cert(context)
        context.minimum_version = context.maximum_version = version
        return context

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Answer each connection with a word; return the port."""

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await writer.drain()
            writer.close()

        context = rotating_context(self.files)
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
            yield server.sockets[0].getsockname()[1]


def call(
    port: int, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bytes, ssl.SSLSession | None, bool]:
    """Return the answer, the session, and whether it is an earlier one. Blocks."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        client.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
    ):
        answer = secured.recv(5)
        return answer, secured.session, bool(secured.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_does_not_outlive_the_ca_that_it_began_with(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """A session is not verified again: it would let a client in that no longer may."""
    parties = Parties(tmp_path)
    client = parties.client(version, parties.clients)
    async with parties.serving() as port:
        answer, session, _ = await asyncio.to_thread(call, port, client)
        assert answer == b"hello"
        parties.trust(successor := trustme.CA())
        for earlier in (None, session):
            try:
                found = await asyncio.to_thread(call, port, client, earlier)
            except (ssl.SSLError, OSError):
                continue
            assert found[0] == b""
        new = parties.client(version, successor)
        assert (await asyncio.to_thread(call, port, new))[0] == b"hello"


async def test_a_session_leads_to_no_further_one(tmp_path: Path) -> None:
    """With TLS 1.3 each ticket would bring another, past the end of the client's certificate."""
    parties = Parties(tmp_path)
    client = parties.client(ssl.TLSVersion.TLSv1_3, parties.clients)
    async with parties.serving() as port:
        _, session, _ = await asyncio.to_thread(call, port, client)
        _, _, is_earlier = await asyncio.to_thread(call, port, client, session)
    assert not is_earlier


async def test_files_that_do_not_match_leave_the_last_good_ones(tmp_path: Path) -> None:
    """A rotation may be read half done."""
    parties = Parties(tmp_path)
    client = parties.client(ssl.TLSVersion.TLSv1_3, parties.clients)
    async with parties.serving() as port:
        parties.own.issue_cert("localhost").private_key_pem.write_to_path(parties.files.key)
        assert (await asyncio.to_thread(call, port, client))[0] == b"hello"


def test_files_that_are_missing_stop_the_start(tmp_path: Path) -> None:
    """With the paths, since one of them is wrong."""
    parties = Parties(tmp_path)
    parties.files.client_ca.unlink()
    with pytest.raises(SocketError, match=r"ca\.crt"):
        rotating_context(parties.files)


def test_a_key_with_a_passphrase_stops_the_start_without_a_question(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenSSL would ask on the terminal, and wait."""
    parties = Parties(tmp_path)
    encrypt(parties.files.key)
    with pytest.raises(SocketError, match="a key without a passphrase"):
        rotating_context(parties.files)
    assert capfd.readouterr().err == ""


async def test_a_new_key_with_a_passphrase_leaves_the_last_good_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The loop would wait for an answer on the terminal, with all its connections."""
    parties = Parties(tmp_path)
    client = parties.client(ssl.TLSVersion.TLSv1_3, parties.clients)
    async with parties.serving() as port:
        encrypt(parties.files.key)
        assert (await asyncio.to_thread(call, port, client))[0] == b"hello"
    assert "pass phrase" not in capfd.readouterr().err
