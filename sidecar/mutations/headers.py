"""Which request headers we take away before a request leaves."""

from __future__ import annotations

from typing import Final

from sidecar.domain.http import (
    CREDENTIAL_HEADERS,
    EGRET_HEADER_PREFIX,
    HeaderMutation,
    Headers,
)

CLIENT_CREDENTIALS: Final = frozenset(
    {*CREDENTIAL_HEADERS, "proxy-authorization", "cookie", "x-amz-security-token"}
)
"""What proves a client's identity to us or to others must not reach the provider, who gets a
credential of its own from Envoy."""


def strip(headers: Headers) -> HeaderMutation:
    """Return the removal of every client credential and every client-sent `x-egret-*`."""
    removed = {
        name
        for name, _ in headers.fields
        if name in CLIENT_CREDENTIALS or name.startswith(EGRET_HEADER_PREFIX)
    }
    return HeaderMutation(remove_headers=tuple(sorted(removed)))
