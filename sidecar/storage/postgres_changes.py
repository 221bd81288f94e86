"""Hears of changes to keys and policies as they are committed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Never

import structlog

from sidecar.authorization.api_key import KEY_ID_LENGTH
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, connect
from sidecar.storage.schema import KEYS_CHANNEL, POLICIES_CHANNEL

_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0
_HEARTBEAT_SECONDS: Final = 5.0
"""A connection can die without a word (a NAT entry that timed out, a node that vanished)."""

_LONGEST_MICROS: Final = 17
"""Digits of microseconds since the epoch until the year 5138."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCallbacks:
    """Whom to tell. They are called in the event loop and must not block or raise.

    `on_key` gets a key's public id, `on_scope` everything else that a payload names: an owner of
    keys, or `*`. `on_listening` says that changes are heard of from here on and earlier ones were
    missed, `on_lost` that they are no longer. `on_latency` gets how
    many seconds ago the change was made, once the callback for it has returned; the clocks of two
    machines are compared, and what would be in the future counts as 0.
    """

    on_key: Callable[[str], None]
    on_scope: Callable[[str], None]
    on_listening: Callable[[], None]
    on_lost: Callable[[], None]
    on_policies: Callable[[], None]
    on_latency: Callable[[float], None] | None = None

    def hear(self, payload: str, *, now: float) -> None:
        """Tell of a change to keys, as `schema.KEYS_CHANNEL` has it; *now* is since the epoch."""
        what, changed_at = parse_change(payload)
        if len(what) == KEY_ID_LENGTH and what.isalnum():
            self.on_key(what)
        else:
            self.on_scope(what)
        if changed_at is not None and self.on_latency is not None:
            self.on_latency(max(0.0, now - changed_at))


class ChangeListener:
    """Listens on a connection of its own, and on a new one whenever that is lost."""

    def __init__(
        self,
        settings: PostgresSettings,
        callbacks: ChangeCallbacks,
        *,
        heartbeat_seconds: float = _HEARTBEAT_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._callbacks = callbacks
        self._heartbeat_seconds = heartbeat_seconds
        self._wall = wall
        self._is_listening = False

    @property
    def is_listening(self) -> bool:
        """Whether a change made now would be heard."""
        return self._is_listening

    async def run(self) -> Never:
        """Listen until cancelled."""
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            try:
                async with connect(self._settings) as connection:
                    await self._listen(connection)
                    delay_seconds = _FIRST_DELAY_SECONDS
                    await self._stay(connection)
            except UNAVAILABLE as error:
                _log.warning(
                    "changes.not_listening",
                    error_type=type(error).__name__,
                    retry_seconds=delay_seconds,
                )
            finally:
                self._stop_listening()
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _LONGEST_DELAY_SECONDS)

    async def _listen(self, connection: Connection) -> None:
        async with asyncio.timeout(self._settings.query_seconds):
            await connection.add_listener(KEYS_CHANNEL, self._on_key_notification)
            await connection.add_listener(POLICIES_CHANNEL, self._on_policy_notification)
        self._is_listening = True
        _log.info("changes.listening")
        # Only now: a change before the LISTEN went unheard, one after it will be heard.
        self._callbacks.on_listening()
        self._callbacks.on_policies()

    def _stop_listening(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._callbacks.on_lost()

    async def _stay(self, connection: Connection) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _connection: lost.set())
        while not (lost.is_set() or connection.is_closed()):
            try:
                async with asyncio.timeout(self._heartbeat_seconds):
                    await lost.wait()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=self._settings.query_seconds)
        raise ConnectionResetError("the connection was closed")

    def _on_key_notification(
        self, _connection: Any, _pid: int, _channel: str, payload: object
    ) -> None:
        self._callbacks.hear(str(payload), now=self._wall())

    def _on_policy_notification(
        self, _connection: Any, _pid: int, _channel: str, _payload: object
    ) -> None:
        self._callbacks.on_policies()


def parse_change(payload: str) -> tuple[str, float | None]:
    """Split a payload of `KEYS_CHANNEL` into what changed and when, in seconds since the epoch.

    The time is None where there is none (as before migration 0004, or from somebody's psql).
    """
    what, _, micros = payload.partition(",")
    is_time = micros.isascii() and micros.isdigit() and len(micros) <= _LONGEST_MICROS
    return what, int(micros) / 1_000_000 if is_time else None
