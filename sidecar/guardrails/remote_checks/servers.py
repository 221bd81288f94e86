"""What a worker knows of the servers it asks: how many checks are under way, who is let alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sidecar.domain.policy import Guardrail
from sidecar.domain.remote_guardrails import RemoteCare, RemoteEndpoint, RemoteSettings
from sidecar.guardrails.remote import RemoteCheckError, RemoteFault
from sidecar.guardrails.remote_checks.breaker import Breaker

MAX_SERVERS: Final = 1_000
"""Far more than policies name; those of policies long gone make room."""


class Server:
    """One server as one kind of guardrail asks it: its bulkhead and its breaker."""

    def __init__(self, care: RemoteCare) -> None:
        self.breaker = Breaker(failures=care.breaker_failures, open_seconds=care.breaker_seconds)
        self._free = self._size = care.max_concurrent

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._free == self._size

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for as long as the block lasts.

        Raises:
            RemoteCheckError: all are taken. At once: a queue would use up the time of all in it.
        """
        if self._free <= 0:
            raise RemoteCheckError("overloaded", RemoteFault.LOCAL)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class Servers:
    """All of a worker.

    Guardrails share one where type, address, headers, files and care are equal. Not by address
    alone: one tenant's wrong credential must not keep another from the same server.
    """

    def __init__(self, *, limit: int = MAX_SERVERS) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[str, RemoteEndpoint, RemoteCare], Server] = OrderedDict()

    def of(self, settings: RemoteSettings) -> Server:
        """Return the server that a guardrail with these settings asks."""
        key = (settings.guardrail_type, settings.endpoint, settings.care)
        server = self._known.get(key)
        if server is None:
            self._make_room()
            server = self._known[key] = Server(settings.care)
        self._known.move_to_end(key)
        return server

    def _make_room(self) -> None:
        while len(self._known) >= self._limit:
            idle = next((key for key, one in self._known.items() if one.is_idle), None)
            if idle is None:
                return
            del self._known[idle]


def settings_of(guardrail: Guardrail) -> RemoteSettings:
    """Return the settings of a remote guardrail.

    Raises:
        RemoteCheckError: it is a local one.
    """
    if not isinstance(guardrail.settings, RemoteSettings):
        raise RemoteCheckError("not_remote", RemoteFault.LOCAL)
    return guardrail.settings
