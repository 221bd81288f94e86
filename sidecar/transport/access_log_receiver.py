"""Takes Envoy's access log: keeps what was used, then tells whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sidecar.extproc.codec import UnreadableMessageError
from sidecar.transport.access_log import ACCEPTED, decode_access_log
from sidecar.usage.estimate import record_of
from sidecar.usage.ports import EndedListener, UsageKeeper
from sidecar.usage.unnamed_ends import UnnamedEnds


class AccessLogReceiver:
    """One a worker; answers only when what it was sent is safe."""

    def __init__(
        self,
        keeper: UsageKeeper,
        listeners: Sequence[EndedListener],
        *,
        unnamed: UnnamedEnds,
        on_unreadable: Callable[[int], None],
        on_unnamed: Callable[[int], None],
    ) -> None:
        self._keeper = keeper
        self._unnamed = unnamed
        self._listeners = tuple(listeners)
        self._on_unreadable = on_unreadable
        self._on_unnamed = on_unnamed

    async def receive(self, message: bytes) -> bytes:
        """Take one message and return the answer that lets Envoy forget it.

        Raises:
            NotKeptError: Envoy is to send it to another worker.
        """
        try:
            batch = decode_access_log(message)
        except UnreadableMessageError:
            # Sent again it would be no better.
            self._on_unreadable(1)
            return ACCEPTED
        if batch.unreadable:
            self._on_unreadable(batch.unreadable)
        if batch.ended:
            await self._keeper.keep([record_of(ended) for ended in batch.ended])
            for ended in batch.ended:
                for listener in self._listeners:
                    listener.exchange_ended(ended)
        if batch.unnamed:
            self._on_unnamed(len(batch.unnamed))
            self._unnamed.hear(batch.unnamed)
        return ACCEPTED
