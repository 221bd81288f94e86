"""A resolver to whom every name is at the same addresses."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override


class FixedResolver(AbstractResolver):
    """Every name is at `addresses`, which may change."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    @override
    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses."""
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    @override
    async def close(self) -> None:
        """Hold nothing."""
