"""Changes to a request that goes on, and Egret's own answer to one that does not."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.domain.http import HeaderMutation

Metadata = tuple[tuple[str, str | float], ...]
"""Names and values of dynamic metadata in namespace `egret`."""


@dataclass(frozen=True, slots=True)
class RequestMutations:
    """Changes to a request that goes on.

    `body` replaces the whole body; None leaves its bytes alone. `metadata` becomes dynamic
    metadata in namespace `egret`, from which Envoy writes timing headers and its access log.
    With `clear_route_cache` Envoy chooses the route anew, by the headers as they are now.
    """

    headers: HeaderMutation
    body: bytes | None = None
    metadata: Metadata = ()
    clear_route_cache: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of Egret: status, headers, body in the client's dialect.

    `details` is short and stable (no user data); Envoy logs it as response code details.
    """

    status: int
    headers: tuple[tuple[str, bytes], ...]
    body: bytes
    details: str
    metadata: Metadata = ()
