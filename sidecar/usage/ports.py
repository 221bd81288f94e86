"""What the end of an exchange is told to, and who keeps records of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sidecar.domain.usage import ExchangeEnded, JudgedRequest, UsageRecord


class EndedListener(Protocol):
    """Hears of every exchange that ended: metrics, limits.

    To one worker of all, which need not be the one that judged the request. Now and then twice:
    where a worker died before it could acknowledge, another one hears of it again.
    """

    def exchange_ended(self, ended: ExchangeEnded) -> None:
        """Take note. Must not wait and must not raise."""
        ...


class UsageNotes(Protocol):
    """Where it is noted that a request goes to its provider, before anybody knows its end."""

    def note(self, request: JudgedRequest) -> None:
        """Note *request*. Must not wait and does not raise."""
        ...


class GivenVerdicts(Protocol):
    """Where a verdict is remembered until Envoy has surely heard of it."""

    def given(self, stream: str, request: JudgedRequest) -> None:
        """Remember it by Envoy's name of the stream. Must not wait and does not raise."""
        ...


class NotKeptError(Exception):
    """Neither the disk nor the database took the records; whoever has them must keep them."""


class UsageKeeper(Protocol):
    """Where records are safe once it has returned."""

    async def keep(self, records: Sequence[UsageRecord]) -> None:
        """Keep *records*.

        Raises:
            NotKeptError: they are not kept.
        """
        ...
