from __future__ import annotations

import pytest
from starlette.requests import Request

from sidecar.admin.owner_deletion import Dependents
from sidecar.admin_api.objects import check_match, etag
from sidecar.admin_api.problems import Problem

BEFORE, AFTER = Dependents(1, 2, 2), Dependents(1, 2, 1)


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "PATCH", "path": "/", "headers": raw})


def test_a_tag_is_that_of_the_object_as_it_is_shown() -> None:
    """Equal objects have equal tags, and others do not."""
    assert etag(BEFORE) == etag(Dependents(1, 2, 2)) != etag(AFTER)


def test_a_write_goes_on_for_the_object_that_its_caller_has_read() -> None:
    """By one of several tags, by any with `*`, and without the header."""
    check_match(request(if_match=f'"x", {etag(BEFORE)}'), BEFORE)
    check_match(request(if_match="*"), BEFORE)
    check_match(request(), BEFORE)

    with pytest.raises(Problem) as refused:
        check_match(request(if_match=etag(BEFORE)), AFTER)
    assert refused.value.status == 412
