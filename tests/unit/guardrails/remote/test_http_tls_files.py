from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.domain.guardrail_settings import RemoteEndpoint, WebhookSettings
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteCheckError, RemoteFault
from sidecar.guardrails.remote.http import LOOK_SECONDS, MAX_FILE_BYTES, TlsFileCache, tls_context
from tests.support.authority import Authority, encrypt
from tests.support.remote_checks import Clock, asking, remote_checks
from tests.support.web_app import served


@asynccontextmanager
async def tls_server(authority: Authority, clients: Authority) -> AsyncIterator[str]:
    """Answer `pass` to clients that the second authority knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.ca.issue_cert("127.0.0.1").configure_cert(context)
    clients.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"verdict": "pass"})

    application = web.Application()
    application.router.add_post("/", answer)
    async with served(application, tls=context) as port:
        yield f"https://127.0.0.1:{port}/"


def endpoint_of(url: str, **files: Path) -> RemoteEndpoint:
    return RemoteEndpoint(url, **{name: str(file) for name, file in files.items()})  # type: ignore[arg-type] # the files only


async def ask(endpoint: RemoteEndpoint) -> RemoteAnswer:
    async with remote_checks() as checks:
        return await checks.check(asking(WebhookSettings(endpoint), "text"))


async def test_server_and_client_know_each_other_by_the_policys_files(tmp_path: Path) -> None:
    """TLS on both sides, with authorities that the system knows nothing of."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    async with tls_server(theirs, clients=ours) as url:
        known = endpoint_of(url, ca_file=theirs.ca_file, **ours.identity("egret"))
        assert await ask(known) == RemoteAnswer("pass")


@pytest.mark.parametrize("lacking", ["its authority", "our identity", "any file"])
async def test_without_one_of_them_there_is_no_answer(tmp_path: Path, lacking: str) -> None:
    """The system's authorities vouch for no such server, and it takes no stranger."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    files: dict[str, dict[str, Any]] = {
        "its authority": ours.identity("egret"),
        "our identity": {"ca_file": theirs.ca_file},
        "any file": {},
    }
    async with tls_server(theirs, clients=ours) as url:
        with pytest.raises(RemoteCheckError) as raised:
            await ask(endpoint_of(url, **files[lacking]))
    assert raised.value.error_type in {"tls", "connection"}


@pytest.mark.parametrize("kind", ["missing", "no certificate", "large", "pipe"])
@pytest.mark.timeout(60)
async def test_files_of_no_use_are_an_error_of_ours(tmp_path: Path, kind: str) -> None:
    """Never a connection that checks less than the policy asks for, nor a wait for a pipe."""
    file = tmp_path / "ca.pem"
    match kind:
        case "no certificate":
            file.write_text(kind)
        case "large":
            file.write_bytes(bytes(MAX_FILE_BYTES + 1))
        case "pipe":
            os.mkfifo(file)
        case _:
            pass
    with pytest.raises(RemoteCheckError) as raised:
        await ask(endpoint_of("https://127.0.0.1:1/", ca_file=file))
    assert (raised.value.error_type, raised.value.fault) == ("tls_files", RemoteFault.LOCAL)


def test_a_key_with_a_passphrase_is_of_no_use_and_nobody_is_asked_for_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenSSL would ask on the terminal, and wait."""
    authority = Authority(tmp_path)
    identity = authority.identity("egret")
    encrypt(identity["key_file"])
    with pytest.raises(ssl.SSLError):
        tls_context(endpoint_of("https://h/", ca_file=authority.ca_file, **identity))
    assert capfd.readouterr().err == ""


async def test_files_that_change_are_read_again(tmp_path: Path) -> None:
    """At the next look; the same object as long as they do not."""
    authority, clock = Authority(tmp_path), Clock()
    endpoint = endpoint_of("https://h/", ca_file=authority.ca_file, **authority.identity("a"))
    files = TlsFileCache(tls_context, clock=clock)
    first = await files.get(endpoint)
    authority.identity("b")
    assert await files.get(endpoint) is first
    clock.now = LOOK_SECONDS
    second = await files.get(endpoint)
    clock.now *= 2
    assert second is not first
    assert await files.get(endpoint) is second


async def test_files_that_do_not_fit_together_leave_the_last_good_ones_in_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the replacement of a certificate and that of its key, and until that is done."""
    authority, clock = Authority(tmp_path), Clock()
    identity = authority.identity("a")
    endpoint = endpoint_of("https://h/", ca_file=authority.ca_file, **identity)
    files = TlsFileCache(tls_context, clock=clock)
    first = await files.get(endpoint)
    old_key = identity["key_file"].read_bytes()
    authority.identity("b")
    new_key = identity["key_file"].read_bytes()
    identity["key_file"].write_bytes(old_key)
    clock.now = LOOK_SECONDS
    assert await files.get(endpoint) is first
    identity["key_file"].write_bytes(new_key)
    os.utime(identity["key_file"], ns=(1, 1))
    clock.now *= 2
    assert await files.get(endpoint) is not first
    assert old_key.decode() not in capsys.readouterr().err
