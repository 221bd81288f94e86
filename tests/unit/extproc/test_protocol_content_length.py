from __future__ import annotations

import pytest

from sidecar.domain.http import HeaderMutation
from sidecar.extproc.phases import BodyMode
from tests.support import events as on
from tests.support import replies as do
from tests.support.conversation import Talk, body, headers, opened

GIVEN = HeaderMutation((("x-a", b"1"),), ("authorization",))


@pytest.mark.parametrize(
    ("new", "buffered", "streamed"),
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
    new: bytes | None, buffered: HeaderMutation, streamed: HeaderMutation
) -> None:
    """Set in bytes; removed first where Envoy would keep the old one."""
    cleared = on.RequestCleared(on.RequestMutations(GIVEN, new))
    asked = (headers(), on.BodyRequired(), body(b"abc", ends=True))
    of_buffered = Talk(opened(BodyMode.BUFFERED), *asked).tell(cleared)[0]
    of_streamed = Talk(opened(), *asked).tell(cleared)[0]
    assert isinstance(of_buffered, do.ContinueRequestBody)
    assert isinstance(of_streamed, do.ContinueRequestHeaders)
    assert (of_buffered.headers, of_streamed.headers) == (buffered, streamed)
