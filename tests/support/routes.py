"""Routes of paths that an API has."""

from __future__ import annotations

from sidecar.apis.routes import recognise
from sidecar.domain.http import Headers
from sidecar.domain.subject import Route


def route_of(path: str = "/v1/chat/completions") -> Route:
    """Return the route of a POST to *path*."""
    route = recognise("POST", path, Headers())
    assert isinstance(route, Route)
    return route
