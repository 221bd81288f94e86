from __future__ import annotations

import pytest

from sidecar.domain.http import CREDENTIAL_HEADERS, HeaderMutation, Headers
from sidecar.mutations.headers import strip

KEPT = (
    (":method", b"POST"),
    ("content-type", b"application/json"),
    ("x-api-key-id", b"1"),
    ("egret-x", b"1"),
    ("openai-organization", b"o"),
)


@pytest.mark.parametrize(
    "name",
    [
        *CREDENTIAL_HEADERS,
        "cookie",
        "proxy-authorization",
        "x-amz-security-token",
        "x-egret-a",
        "x-egret-",
    ],
)
def test_what_a_client_proves_itself_with_never_leaves(name: str) -> None:
    """Nor does what only we may say; everything else stays."""
    headers = Headers((*KEPT, (name, b"secret"), (name, b"again")))
    assert strip(headers) == HeaderMutation(remove_headers=(name,))


def test_nothing_is_removed_that_is_not_there() -> None:
    """Envoy counts each operation against a limit."""
    assert strip(Headers(KEPT)) == HeaderMutation()


def test_removals_come_in_a_stable_order() -> None:
    """The same request leads to the same bytes."""
    headers = Headers((("x-egret-b", b""), ("cookie", b""), ("authorization", b"")))
    assert strip(headers).remove_headers == ("authorization", "cookie", "x-egret-b")
