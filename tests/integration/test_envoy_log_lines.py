"""No header of a provider can add a line to an entry of Envoy's log for usage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from egret_tools.devstack.envoy import EnvoyRun, listening_envoy
from egret_tools.devstack.processes import Children, free_port

from sidecar.domain.usage import LOG_FORMAT, LogEntry

END = " END\n"
FILTERS = "type.googleapis.com/envoy.extensions.filters"


def config(log: Path, *, port: int) -> str:
    """Return a configuration that writes the entries of a provider's answers to *log*."""
    written = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(log),
        "log_format": {"text_format_source": {"inline_string": LOG_FORMAT + END}},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "provider"}}
    router = {"@type": f"{FILTERS}.http.router.v3.Router"}
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "access_log": [{"name": "file", "typed_config": written}],
        "route_config": {"virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }

    def address(number: int) -> dict[str, object]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": number}}}

    endpoints = [{"lb_endpoints": [{"endpoint": address(port)}]}]
    assignment = {"cluster_name": "provider", "endpoints": endpoints}
    listener = address(0) | {
        "name": "http",
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    cluster = {"name": "provider", "type": "STATIC", "load_assignment": assignment}
    admin = address(free_port())
    return json.dumps(
        {"admin": admin, "static_resources": {"listeners": [listener], "clusters": [cluster]}}
    )


@asynccontextmanager
async def provider(value: bytes) -> AsyncIterator[int]:
    """Serve answers whose content type and id are *value*; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"content-length: 0\r\nconnection: close\r\ncontent-type: " + value
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nx-request-id: " + value + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (b"a", "a"),
        (b'a\t"\\', 'a\t"\\'),
        (b"a\r\n b", "a b"),
        (b"a\r\n\tb", "a\tb"),
        (b"a\n b", "a b"),
        (b"a\rb", "ab"),
        (b"a\nb", "-"),
        (b"a\0b", "-"),
    ],
)
async def test_a_header_is_one_line(tmp_path: Path, value: bytes, logged: str) -> None:
    """Envoy joins folded headers, and refuses answers with other line feeds."""
    log = tmp_path / "log"
    async with provider(value) as port:
        run = EnvoyRun(tmp_path, tmp_path, threads=1)
        async with (
            listening_envoy(Children(), run=run, config=config(log, port=port)) as envoy,
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{envoy.ports['http']}/") as answer,
        ):
            assert answer.status == (502 if logged == "-" else 200)
    entry, rest = log.read_text().split(END)
    texts = entry.split("\n")

    assert (len(texts), rest) == (len(LogEntry._fields), "")
    assert LogEntry._make(texts).provider_request_id == logged
