"""Removes credentials and overrides from a request's headers, and writes the routing header."""

from __future__ import annotations

import re
from typing import Final

from sidecar.domain.http import (
    CREDENTIAL_HEADERS,
    EGRET_HEADER_PREFIX,
    HeaderMutation,
    HeaderName,
    Headers,
)

CLIENT_CREDENTIALS: Final = frozenset(
    {
        *CREDENTIAL_HEADERS,
        *("proxy-authorization", "cookie", "x-amz-security-token", "ocp-apim-subscription-key"),
    }
)
"""A client's credentials, for Egret or others, must not reach the provider, which receives one of
its own from Envoy."""

OVERRIDING: Final = frozenset({"x-ms-oai-image-generation-deployment", "x-http-method-override"})
"""Headers that make a provider do something else than was judged.

Azure draws with the model that the first one names, despite the allowed models; Google obeys the
second instead of the method."""

_REMOVED: Final = CLIENT_CREDENTIALS | OVERRIDING


def strip(headers: Headers) -> HeaderMutation:
    """Return the removal of credentials, of overrides, and of every client-sent `x-egret-*`."""
    removed = {
        name
        for name, _ in headers.fields
        if name in _REMOVED or name.startswith(EGRET_HEADER_PREFIX)
    }
    return HeaderMutation(remove_headers=tuple(sorted(removed)))


_ROUTABLE: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9._:/@+~-]{0,255}")
"""Names of models, ARNs and names of repositories included. The matcher of a route could interpret
other text differently (blanks at its ends, letters outside of ASCII, a line's end, ten kilobytes):
no route is chosen by it."""


def naming_model(headers: HeaderMutation, model: str | None) -> HeaderMutation:
    """Return *headers* with the model in a header of ours, just as the provider reads it.

    For a model without such a name there is no header: the client's own is removed before.
    """
    if model is None or not _ROUTABLE.fullmatch(model):
        return headers
    named = (HeaderName.EGRET_MODEL, model.encode("ascii"))
    return HeaderMutation((*headers.set_headers, named), headers.remove_headers)
