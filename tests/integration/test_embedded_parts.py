"""The real servers of the stack, one at a time."""

from __future__ import annotations

import base64
import shutil
import ssl
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from egret_tools.devstack.console import login_link, running_console
from egret_tools.devstack.credentials import write_certificates
from egret_tools.devstack.databases import running_postgres, running_valkey
from egret_tools.devstack.demo_setup import EXAMPLES, set_up, set_up_examples
from egret_tools.devstack.processes import Children, free_port
from egret_tools.devstack.providers import made_up_credentials, running_mock_provider
from egret_tools.devstack.run_directory import RunDirectory, run_directory
from pydantic import SecretStr
from redis.asyncio import Redis

pytestmark = pytest.mark.stack


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    place = Path(tempfile.mkdtemp(prefix="egret-"))
    try:
        with run_directory(place) as directory:
            yield directory
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def test_postgres_serves_an_empty_database_to_its_owner_alone(run: RunDirectory) -> None:
    """Over a Unix socket in a closed directory; no port is opened."""
    directory = run.path / "postgres"
    async with running_postgres(Children(), directory=directory, logs=run.logs) as dsn:
        connection = await asyncpg.connect(dsn)
        try:
            addresses = await connection.fetchval("SHOW listen_addresses")
            encoding = await connection.fetchval("SHOW server_encoding")
            tables = await connection.fetchval(
                "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            )
        finally:
            await connection.close()
    assert (addresses, encoding, tables) == ("", "UTF8", 0)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_the_console_signs_in_by_a_link_once_and_has_examples(run: RunDirectory) -> None:
    """A second start on the same data makes no second set of them."""
    children = Children()
    async with running_postgres(children, directory=run.path / "postgres", logs=run.logs) as dsn:
        await set_up(SecretStr(dsn))
        for _ in range(2):
            await set_up_examples(SecretStr(dsn))
        settings = {"EGRET_POSTGRES__DSN": dsn}
        async with running_console(
            children, port=free_port(), settings=settings, logs=run.logs
        ) as url:
            token = (await login_link(dsn, url)).partition("token=")[2]
            jar = aiohttp.CookieJar(unsafe=True)  # of an address, not a name
            async with aiohttp.ClientSession(
                url, cookie_jar=jar, headers={"origin": url}
            ) as client:
                statuses = []
                for _ in range(2):
                    async with client.post("/login/link", data={"token": token}) as answer:
                        statuses.append(answer.status)
                async with client.get("/organizations") as answer:
                    page = await answer.text()
    assert statuses == [200, 400]
    assert all(page.count(f">{name}<") == 1 for name in EXAMPLES)


async def test_valkey_answers_on_its_socket(run: RunDirectory) -> None:
    """Lua included, which limits are made of."""
    directory = run.path / "valkey"
    async with running_valkey(Children(), directory=directory, logs=run.logs) as url:
        client = Redis.from_url(url)
        try:
            answer = await client.eval("return redis.call('INCR', KEYS[1])", 1, "k")
        finally:
            await client.aclose()
    assert answer == 1


async def test_the_mock_runs_as_a_process_of_its_own(run: RunDirectory) -> None:
    """Over TLS, with a key made for this run, and a debug endpoint in plain HTTP."""
    certificates = write_certificates(run.path / "certificates")
    credentials = made_up_credentials()
    assert credentials.openai is not None
    key = credentials.openai.get_secret_value()
    tls = ssl.create_default_context(cafile=str(certificates.provider_ca))
    async with (
        running_mock_provider(
            Children(), run=run, certificate=certificates.provider, credentials=credentials
        ) as mock,
        aiohttp.ClientSession() as client,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {key}"}
        url = f"{mock.url}/v1/chat/completions"
        async with client.post(url, json=body, headers=headers, ssl=tls) as answer:
            assert answer.status == 200
        async with client.get(f"{mock.debug_url}/last") as answer:
            last = await answer.json()
    assert b'"hi"' in base64.b64decode(last["body_base64"])
