"""The table of known messages of a worker, and the entries that workers share."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from blake3 import blake3

import sidecar
from sidecar.guardrails.message_table import SECRET_BYTES, MessageTable
from sidecar.settings.process import Settings
from sidecar.telemetry.process_metrics import ProcessMetrics


async def open_messages(
    settings: Settings, *, metrics: ProcessMetrics, stack: AsyncExitStack
) -> MessageTable | None:
    """Return the table, if there is to be one; closed with *stack*. Waits for no server."""
    exchange, secret = settings.exchange, settings.cache.l2_secret
    if not exchange.message_table_mb:
        return None
    max_bytes = exchange.message_table_mb << 20
    if not exchange.shared_messages_seconds or secret is None:
        return MessageTable(max_bytes=max_bytes, secret=os.urandom(SECRET_BYTES))
    # A worker without Valkey never loads its client: 25 MB a worker (redis 8.1).
    from sidecar.storage.valkey import SharedTimes, open_valkey  # noqa: PLC0415
    from sidecar.storage.valkey_messages import ValkeyMessages, derived_keys  # noqa: PLC0415

    digest_key, tag_key = derived_keys(secret.get_secret_value(), code_digest(files(sidecar)))
    shared = ValkeyMessages(
        await stack.enter_async_context(open_valkey(settings.valkey)),
        tag_key,
        times=SharedTimes(
            keep_seconds=exchange.shared_messages_seconds,
            operation_seconds=settings.valkey.operation_seconds,
        ),
        count=metrics.shared_messages,
    )
    stack.push_async_callback(shared.aclose)
    return MessageTable(max_bytes=max_bytes, secret=digest_key, shared=shared)


_NO_CODE: Final = "__pycache__"


def code_digest(package: Traversable) -> bytes:
    """Return a digest of all files of *package*, and the versions of all distributions and Python.

    Workers with the same digest find the same in a text, and may share their findings.
    """
    hasher = blake3()

    def add(place: Traversable) -> None:
        for one in sorted(place.iterdir(), key=lambda one: one.name):
            if one.is_dir() and one.name != _NO_CODE:
                add(one)
            elif one.is_file():
                hasher.update(f"\0{one.name}\0".encode() + one.read_bytes())

    add(package)
    installed = {f"{one.name} {one.version}" for one in metadata.distributions()}
    return hasher.update(repr((sys.version, sorted(installed))).encode()).digest()
