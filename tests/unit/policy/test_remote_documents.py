from __future__ import annotations

import json

import pytest

from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    ModerationSettings,
    RemoteEndpoint,
    RemoteScope,
    ResilienceSettings,
    WebhookSettings,
)
from sidecar.policy.parse import PolicyDocumentError, parse_policies


def settings_of(fields: str) -> object:
    (policy,) = parse_policies(f"name: p\nguardrails:\n  - {{name: a, {fields}}}")
    return policy.guardrails[0].settings


def test_endpoint_and_resilience_reach_the_settings() -> None:
    """Each field of the document under its name in the domain."""
    assert settings_of(
        "type: grpc, url: 'grpcs://h:443', headers: {x-token: t}, ca_file: /ca, cert_file: /c,"
        " key_file: /k, retries: 2, hedge_after: 100ms, cache: 1m, scope: message,"
        " max_concurrent: 3, breaker: {failures: 4, open_for: 5s}"
    ) == GrpcSettings(
        endpoint=RemoteEndpoint("grpcs://h:443", (("x-token", "t"),), "/ca", "/c", "/k"),
        resilience=ResilienceSettings(
            retries=2,
            hedge_after_seconds=0.1,
            cache_seconds=60.0,
            scope=RemoteScope.MESSAGE,
            max_concurrent=3,
            breaker_failures=4,
            breaker_seconds=5.0,
        ),
    )


@pytest.mark.parametrize("scope", RemoteScope)
def test_verdicts_on_messages_are_kept_for_ten_minutes_if_the_policy_names_no_time(
    scope: RemoteScope,
) -> None:
    settings = settings_of(f"type: webhook, url: 'http://h/', scope: {scope.value}")
    assert isinstance(settings, WebhookSettings)
    by_message = scope is RemoteScope.MESSAGE
    assert settings.resilience.cache_seconds == (600.0 if by_message else 0.0)


def test_thresholds_of_a_moderation_keep_their_order() -> None:
    """Settings are hashed, so they hold pairs in the place of a mapping."""
    settings = settings_of("type: moderation, url: 'https://h/', thresholds: {b: 0.5, a: 1}")
    assert isinstance(settings, ModerationSettings)
    assert settings.thresholds == (("b", 0.5), ("a", 1.0))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("type: webhook, url: 'grpc://h:1'", "is not an http or https URL"),
        ("type: webhook, url: 'https://u:p@h/'", "holds credentials"),
        ("type: webhook, url: 'http://169.254.169.254/'", "points at a link-local"),
        ("type: grpc, url: 'https://h/'", "is not grpc://host:port"),
        ("type: grpc, url: 'grpc://h:1/path'", "has a path"),
        ("type: grpc, url: 'grpc://h:1', headers: {grpc-timeout: 1S}", "is gRPC's own"),
        ("type: grpc, url: 'grpc://h:1', headers: {x+token: t}", "no name of gRPC metadata"),
        ("type: grpc, url: 'grpc://h:1', headers: {'x!': t}", "no name of gRPC metadata"),
        ("type: webhook, url: 'http://h/', headers: {Host: x}", "is set by Egret"),
        ("type: webhook, url: 'http://h/', ca_file: /ca", "a URL without TLS"),
        ("type: webhook, url: 'http://h/', scope: message, cache: 0s", "`cache: 0s` keeps none"),
    ],
)
def test_unsafe_or_useless_settings_are_refused(fields: str, problem: str) -> None:
    """When the policy is applied, not with the first check."""
    with pytest.raises(PolicyDocumentError, match=problem):
        settings_of(fields)


@pytest.mark.parametrize(
    "url",
    [
        "http:///x",
        "http:x.test",
        "http:/x.test/",
        " http://x.test/",
        "http://x\r\n.test/",
        "http://x.test/a\r\nHost: y",
        "http://x.test/a b",
        "http://x.test\t/",
        "http://x.test/\x00",
        "http://x.test/#part",
        "http://.",
        "http://a..b/",
        "http://-/",
        "http://x.test:0/",
        "http://metadata.google.internal/",
        "http://Metadata/computeMetadata/v1/",
        "http://instance-data./latest/",
    ],
)
def test_a_url_that_cannot_work_is_refused_when_it_is_applied(url: str) -> None:
    """With the policy in force, every request would be refused for a check that fails."""
    with pytest.raises(PolicyDocumentError, match=r"guardrails\[0\]\.url: "):
        settings_of(f"type: webhook, url: {json.dumps(url)}")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080/check?mode=strict",
        "HTTPS://guard_rails.default.svc.cluster.local./v1",
        "http://[::1]:9000/",
        "http://10.0.0.7",
        "https://xn--bcher-kva.example/",
    ],
)
def test_a_url_of_any_server_that_can_be_reached_is_taken(url: str) -> None:
    """Names of clusters, addresses of both families, any port, a query."""
    settings = settings_of(f"type: webhook, url: {json.dumps(url)}")
    assert isinstance(settings, WebhookSettings)
    assert settings.endpoint.url == url
