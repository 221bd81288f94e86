"""A PostgreSQL in front of PostgreSQL that passes on all but notifications.

So does a pooler in transaction mode: LISTEN seems to work, and nothing is ever heard.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

SOCKET_NAME = ".s.PGSQL.5432"
_NOTIFICATION = b"A"
"""NotificationResponse (PostgreSQL 18, 54.7)."""
_LENGTH_BYTES = 4


@asynccontextmanager
async def deaf_pooler(server: Path, *, directory: Path) -> AsyncIterator[None]:
    """Listen in *directory* and pass on to the server whose socket is in *server*."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            back, forth = await asyncio.open_unix_connection(str(server / SOCKET_NAME))
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_all(reader, forth))
                    tasks.create_task(_all_but_notifications(back, writer))
            finally:
                forth.close()
                writer.close()

    running = await asyncio.start_unix_server(serve, directory / SOCKET_NAME)
    async with running:
        yield


async def _all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def _all_but_notifications(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while kind := await reader.read(1):
        length = await reader.readexactly(_LENGTH_BYTES)
        body = await reader.readexactly(int.from_bytes(length, "big") - _LENGTH_BYTES)
        if kind != _NOTIFICATION:
            writer.write(kind + length + body)
    writer.close()
