from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from sidecar.keys.scopes import (
    MAX_TAGS,
    ScopeError,
    parse_operations,
    parse_sources,
    parse_tags,
)


def test_operations_and_tags_are_kept_once_and_in_order() -> None:
    """Written twice, or the other way round, they are the same scopes."""
    assert parse_operations(["embeddings", "chat", "chat"]) == ("chat", "embeddings")
    assert parse_tags(["team:search", "env=prod", "env=prod"]) == ("env=prod", "team:search")


def test_an_address_alone_is_a_network_of_one() -> None:
    """The order of the networks stays, as people read them."""
    written = ["192.0.2.7", "2001:db8::/32", "192.0.2.7"]
    assert parse_sources(written) == (ip_network("192.0.2.7/32"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("parse", "text", "hint"),
    [
        pytest.param(parse_operations, "chats", "there are .*chat", id="no operation"),
        pytest.param(parse_sources, "192.0.2.1/24", "write for example", id="within a network"),
        pytest.param(parse_sources, "fe80::1%eth0", "write for example", id="an interface"),
        pytest.param(parse_sources, "example.org", "write for example", id="a name"),
        pytest.param(parse_tags, "Prod", "lower case", id="a capital"),
        pytest.param(parse_tags, "x" * 64, "at most 63", id="too long"),
    ],
)
def test_a_word_that_is_no_scope_is_refused_with_a_valid_form(
    parse: Callable[[list[str]], object], text: str, hint: str
) -> None:
    """The message repeats the word and describes a valid one."""
    with pytest.raises(ScopeError, match=hint):
        parse([text])


def test_a_key_has_a_bounded_number_of_tags() -> None:
    """Each of them is a label that reports group by."""
    tags = [f"tag{number}" for number in range(MAX_TAGS + 1)]
    assert len(parse_tags(tags[:-1])) == MAX_TAGS
    with pytest.raises(ScopeError, match="at most 20"):
        parse_tags(tags)
