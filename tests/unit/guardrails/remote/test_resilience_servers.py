from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest

from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    RemoteEndpoint,
    ResilienceSettings,
    WebhookSettings,
)
from sidecar.guardrails.remote.checks import RemoteCheckError
from sidecar.guardrails.remote.resilience import Server, ServerTable

ENDPOINT = RemoteEndpoint("http://h/", (("authorization", "Bearer a"),))
HOOK = WebhookSettings(ENDPOINT)


@pytest.mark.parametrize(
    "other",
    [
        GrpcSettings(ENDPOINT),
        WebhookSettings(replace(ENDPOINT, url="http://h/2")),
        WebhookSettings(replace(ENDPOINT, headers=())),
        WebhookSettings(replace(ENDPOINT, ca_file="/ca.pem")),
        WebhookSettings(ENDPOINT, ResilienceSettings(max_concurrent=1)),
    ],
    ids=["type", "url", "credential", "authority", "care"],
)
def test_a_server_is_shared_by_guardrails_that_ask_it_alike(
    other: WebhookSettings | GrpcSettings,
) -> None:
    """And by no others."""
    servers = ServerTable()
    assert servers.of(HOOK) is servers.of(WebhookSettings(ENDPOINT))
    assert servers.of(HOOK) is not servers.of(other)


def test_servers_of_policies_long_gone_make_room() -> None:
    """The one that was not asked for longest, and never one that is being asked."""
    servers = ServerTable(limit=2)
    first, second, third, fourth = (
        WebhookSettings(RemoteEndpoint(f"http://h/{index}")) for index in range(4)
    )
    kept, busy = servers.of(first), servers.of(second)
    with busy.bulkhead("a"):
        assert servers.of(first) is kept
        servers.of(third)  # takes the place of the first: the second is at work
        assert servers.of(second) is busy
        assert servers.of(first) is not kept
        with servers.of(first).bulkhead("a"):
            servers.of(fourth)  # all at work: room is made all the same
            assert servers.of(second) is busy


def test_a_place_is_free_again_whatever_happened_in_it() -> None:
    """An error, or a cancellation, takes nothing away for good."""
    server = ServerTable().of(WebhookSettings(ENDPOINT, ResilienceSettings(max_concurrent=1)))
    for _ in range(3):
        with pytest.raises(KeyError), server.bulkhead("a"):
            raise KeyError
    with server.bulkhead("a"), pytest.raises(RemoteCheckError, match="overloaded"):
        server.bulkhead("a").__enter__()
    assert server.is_idle


def taken(server: Server, stack: ExitStack, organization: str, wanted: int = 100) -> int:
    """Take up to *wanted* places, to be given back by *stack*; return how many there were."""
    for count in range(wanted):
        try:
            stack.enter_context(server.bulkhead(organization))
        except RemoteCheckError:
            return count
    return wanted


def server_of(max_concurrent: int) -> Server:
    resilience = ResilienceSettings(max_concurrent=max_concurrent)
    return ServerTable().of(WebhookSettings(ENDPOINT, resilience))


def test_a_single_organization_may_take_all_places() -> None:
    """A reserve for others would never be used."""
    with ExitStack() as stack:
        assert taken(server_of(64), stack, "a") == 64


@pytest.mark.parametrize(
    ("places", "alone"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 7), (16, 14), (64, 56)]
)
def test_once_two_have_asked_one_organization_leaves_places_free_for_others(
    places: int, alone: int
) -> None:
    """An eighth, and at least one; a single place is taken in turn."""
    server = server_of(places)
    with ExitStack() as stack:
        taken(server, stack, "b", 1)
    with ExitStack() as stack:
        assert taken(server, stack, "a") == alone
        assert taken(server, stack, "b", places - alone) == places - alone
        assert taken(server, stack, "c") == 0
    assert server.is_idle


def test_the_share_of_an_organization_shrinks_with_the_places_of_others() -> None:
    """And grows when they give them back."""
    server = server_of(64)
    with ExitStack() as a, ExitStack() as b:
        assert taken(server, b, "b", 8) == 8
        assert taken(server, a, "a", 30) == 30
        assert taken(server, b, "b") == 21, "seven times the 5 that are left free, at most"
        assert taken(server, a, "a") == 0
        b.close()
        assert taken(server, a, "a") == 26


def test_requests_without_an_organization_share_as_one_more() -> None:
    server = server_of(4)
    with ExitStack() as stack:
        assert (taken(server, stack, "", 1), taken(server, stack, "a", 4)) == (1, 2)
        assert taken(server, stack, "b") == 1
