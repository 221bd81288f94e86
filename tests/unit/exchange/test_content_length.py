from __future__ import annotations

import pytest

from sidecar.domain.http import HeaderMutation
from sidecar.exchange.content_length import with_content_length, with_new_content_length

GIVEN = HeaderMutation((("x-a", b"1"),), ("authorization",))


@pytest.mark.parametrize(
    ("body", "buffered", "streamed"),
    [
        (None, GIVEN, GIVEN),
        (
            b"",
            HeaderMutation((("x-a", b"1"), ("content-length", b"0")), ("authorization",)),
            HeaderMutation(
                (("x-a", b"1"), ("content-length", b"0")), ("authorization", "content-length")
            ),
        ),
        (
            "naïve".encode(),
            HeaderMutation((("x-a", b"1"), ("content-length", b"6")), ("authorization",)),
            HeaderMutation(
                (("x-a", b"1"), ("content-length", b"6")), ("authorization", "content-length")
            ),
        ),
    ],
    ids=["unchanged", "emptied", "changed"],
)
def test_content_length_follows_a_changed_body(
    body: bytes | None, buffered: HeaderMutation, streamed: HeaderMutation
) -> None:
    """Set in bytes; removed first where Envoy would keep the old one."""
    assert with_content_length(GIVEN, body) == buffered
    assert with_new_content_length(GIVEN, body) == streamed
