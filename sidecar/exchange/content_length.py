"""What becomes of content-length when a body changes; wrong, it splits one request into two."""

from __future__ import annotations

from sidecar.domain.http import HeaderMutation, HeaderName
from sidecar.domain.mutations import RequestMutations


def with_content_length(mutations: RequestMutations) -> HeaderMutation:
    """BUFFERED: Envoy keeps the old content-length and refuses a body of another length."""
    if mutations.body is None:
        return mutations.headers
    length = (HeaderName.CONTENT_LENGTH, str(len(mutations.body)).encode())
    return HeaderMutation(
        (*mutations.headers.set_headers, length), mutations.headers.remove_headers
    )


def without_content_length(mutations: RequestMutations) -> HeaderMutation:
    """Streamed: a kept content-length would smuggle the rest of the body as a new request."""
    if mutations.body is None:
        return mutations.headers
    return HeaderMutation(
        mutations.headers.set_headers,
        (*mutations.headers.remove_headers, HeaderName.CONTENT_LENGTH),
    )
