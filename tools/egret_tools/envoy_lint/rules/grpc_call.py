"""Rules on the gRPC call that the ext_proc filter makes for each request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import EnvoyConfig
from egret_tools.envoy_lint.filters import where
from egret_tools.envoy_lint.node import Node
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Severity


def _no_retry(one: Node) -> Node | None:
    policy = one.at("grpc_service", "retry_policy")
    return None if policy.at("retry_on").text and policy.exists else policy


def _same_host_again(one: Node) -> Node | None:
    policy = one.at("grpc_service", "retry_policy")
    if not policy.exists:
        return None
    hosts = policy.at("retry_host_predicate")
    return None if any("previous_hosts" in host.at("name").text for host in hosts) else hosts


def _retries_deadline(one: Node) -> Node | None:
    retry_on = one.at("grpc_service", "retry_policy", "retry_on")
    return retry_on if "deadline-exceeded" in retry_on.text else None


def _retry_in_the_wrong_place(one: Node) -> Node | None:
    policy = one.at("grpc_service", "envoy_grpc", "retry_policy")
    return policy if policy.exists else None


def _other_client(one: Node) -> Node | None:
    for place in (one.at("http_service"), one.at("grpc_service", "google_grpc")):
        if place.exists:
            return place
    return None


def _stream_timeout(one: Node) -> Node | None:
    timeout = one.at("grpc_service", "timeout")
    return timeout if (timeout.seconds or 0) > 0 else None


def _envoy_headers(config: EnvoyConfig) -> Iterator[Hit]:
    for one in config.filters():
        envoy_grpc = one.at("grpc_service", "envoy_grpc")
        if envoy_grpc.exists and not envoy_grpc.at("skip_envoy_headers").is_true:
            yield Hit(envoy_grpc.at("skip_envoy_headers"), replacement="true")


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR116", "no-retry", _W,
         "a worker that restarts fails the requests that reach it at that moment",
         "grpc_service.retry_policy with retry_on, see docs/envoy.md", where(_no_retry)),
    ConfigRule("EGR117", "retry-same-worker", _W,
         "a dead worker fails fast and looks least busy, so every retry may hit it again",
         "retry_host_predicate: envoy.retry_host_predicates.previous_hosts",
         where(_same_host_again)),
    ConfigRule("EGR118", "retry-deadline", _W,
         "a second try after a timeout doubles the wait and the load during overload",
         "remove deadline-exceeded from retry_on", where(_retries_deadline)),
    ConfigRule("EGR119", "retry-policy-misplaced", _W,
         "Envoy uses envoy_grpc.retry_policy for xDS only: nothing is retried",
         "move it to grpc_service.retry_policy", where(_retry_in_the_wrong_place)),
    ConfigRule("EGR120", "grpc-client", _E,
         "Egret supports Envoy's own gRPC client only; retries and graceful closes are lost here",
         "grpc_service: {envoy_grpc: {cluster_name: egret}}", where(_other_client)),
    ConfigRule("EGR121", "stream-timeout", _W,
         "the timeout covers the whole stream and cuts uploads and guarded answers",
         "leave grpc_service.timeout out; Egret has budgets of its own", where(_stream_timeout)),
    ConfigRule("EGR122", "envoy-headers", _N,
         "Envoy adds x-forwarded-for and x-envoy-internal to each gRPC call",
         "envoy_grpc.skip_envoy_headers: true", _envoy_headers),
)  # fmt: skip
