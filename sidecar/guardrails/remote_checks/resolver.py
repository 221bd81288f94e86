"""Names become addresses here, and none of them one that no remote check may have."""

from __future__ import annotations

from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from sidecar.guardrails.addresses import is_refused_address


class RefusedAddressError(OSError):
    """A name that resolves to an address no remote check may have."""


class GuardedResolver(AbstractResolver):
    """Resolves names; refuses one that has any address no remote check may have.

    The connection goes to the very addresses judged here, so that a second look-up with another
    answer (DNS rebinding) changes nothing.
    """

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    @override
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Return the addresses of *host*.

        Raises:
            RefusedAddressError: one of them is link-local, a metadata server's or no host's.
            OSError: the name does not resolve.
        """
        results = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # an int is what aiohttp passes
        if any(is_refused_address(result["host"]) for result in results):
            raise RefusedAddressError("refused address")
        return results

    @override
    async def close(self) -> None:
        """Close the resolver below."""
        await self._resolver.close()
