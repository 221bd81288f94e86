"""What becomes of content-length when a body changes; wrong, it splits one request into two."""

from __future__ import annotations

from sidecar.domain.http import HeaderMutation, HeaderName


def with_content_length(headers: HeaderMutation, body: bytes | None) -> HeaderMutation:
    """BUFFERED: Envoy keeps the old content-length and refuses a body of another length.

    None is a body that is left as it is.
    """
    if body is None:
        return headers
    length = (HeaderName.CONTENT_LENGTH, str(len(body)).encode())
    return HeaderMutation((*headers.set_headers, length), headers.remove_headers)


def with_new_content_length(headers: HeaderMutation, body: bytes | None) -> HeaderMutation:
    """Streamed: a kept content-length would smuggle the rest of the body as a new request.

    Envoy writes the new one only where `allow_content_length_header` is set in its filter. The
    removal counts everywhere, and leaves the message chunked.
    """
    if body is None:
        return headers
    changed = with_content_length(headers, body)
    return HeaderMutation(
        changed.set_headers, (*changed.remove_headers, HeaderName.CONTENT_LENGTH)
    )
