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


def with_new_content_length(mutations: RequestMutations) -> HeaderMutation:
    """Streamed: a kept content-length would smuggle the rest of the body as a new request.

    Envoy writes the new one only where `allow_content_length_header` is set in its filter. The
    removal counts everywhere, and leaves the request chunked.
    """
    if mutations.body is None:
        return mutations.headers
    changed = with_content_length(mutations)
    return HeaderMutation(
        changed.set_headers, (*changed.remove_headers, HeaderName.CONTENT_LENGTH)
    )
