from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    RemoteEndpoint,
    ResilienceSettings,
    WebhookSettings,
)
from sidecar.guardrails.remote.checks import RemoteCheckError
from sidecar.guardrails.remote.resilience import ServerTable

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
    with busy.bulkhead():
        assert servers.of(first) is kept
        servers.of(third)  # takes the place of the first: the second is at work
        assert servers.of(second) is busy
        assert servers.of(first) is not kept
        with servers.of(first).bulkhead():
            servers.of(fourth)  # all at work: room is made all the same
            assert servers.of(second) is busy


def test_a_place_is_free_again_whatever_happened_in_it() -> None:
    """An error, or a cancellation, takes nothing away for good."""
    server = ServerTable().of(WebhookSettings(ENDPOINT, ResilienceSettings(max_concurrent=1)))
    for _ in range(3):
        with pytest.raises(KeyError), server.bulkhead():
            raise KeyError
    with server.bulkhead(), pytest.raises(RemoteCheckError, match="overloaded"), server.bulkhead():
        pass
    assert server.is_idle
