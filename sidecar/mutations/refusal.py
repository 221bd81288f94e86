"""A denial as the client sees it: status, headers and an error object of its own API."""

from __future__ import annotations

from sidecar.apis.error_body import error_body, error_headers
from sidecar.domain.errors import ClientError
from sidecar.domain.http import HeaderName
from sidecar.domain.mutations import Metadata, Refusal
from sidecar.domain.subject import Dialect


def refuse(
    error: ClientError,
    *,
    dialect: Dialect,
    headers: tuple[tuple[str, bytes], ...],
    metadata: Metadata,
) -> Refusal:
    """Return the refusal of *error*; `headers` are added to those of the error itself."""
    own = [(HeaderName.CONTENT_TYPE, b"application/json"), *error_headers(dialect, error)]
    if error.retry_after_seconds is not None:
        own.append((HeaderName.RETRY_AFTER, str(error.retry_after_seconds).encode()))
    return Refusal(
        status=error.kind.http_status,
        headers=(*own, *headers),
        body=error_body(dialect, error),
        details=f"egret_{error.kind.value}",
        metadata=metadata,
    )
