"""What authorization needs from storage."""

from __future__ import annotations

from typing import Protocol

from sidecar.domain.principal import KeyRecord


class KeyStoreUnavailableError(Exception):
    """Nobody can tell now whether the key is good. Says what failed, never for which key."""


class KeyStore(Protocol):
    """Where key records come from."""

    async def load(self, key_id: str) -> KeyRecord | None:
        """Return the record of *key_id*, or None where there is no such key.

        Raises:
            KeyStoreUnavailableError: the store did not answer.
        """
        ...
