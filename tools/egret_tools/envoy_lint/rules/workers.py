"""Rules on the cluster of Egret's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from egret_tools.envoy_lint.config import Cluster, EnvoyConfig
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Look, Severity, absent, in_each
from egret_tools.envoy_lint.source import Node
from sidecar.settings.serving import MAX_SOCKET_PATH_BYTES

GRACEFUL_CLOSE: Final = "envoy.reloadable_features.ext_proc_graceful_grpc_close"
MAX_CONNECT_SECONDS: Final = 1.0
MIN_OUTBOUND_FRAMES: Final = 256 << 20
"""Bytes that may wait for a worker, its window of a connection: each may come as a frame."""
MIN_REQUESTS: Final = 16_384
MIN_PING_SECONDS: Final = 1.0
MIN_STREAM_WINDOW: Final = 10 << 20
"""The largest body Egret takes by default."""


def _where(broken: Callable[[Cluster], Node | None]) -> Look:
    return in_each(EnvoyConfig.workers, broken)


def _http2(cluster: Cluster) -> Node:
    return cluster.http_options.at("explicit_http_config", "http2_protocol_options")


def _missing(config: EnvoyConfig) -> Iterator[Hit]:
    is_named = any(True for _ in config.filters())
    if config.whole and is_named and config.place:
        for name in sorted(config.egret - {one.name for one in config.workers()}):
            yield Hit(config.place, f"cluster {name}")


def _no_http2(cluster: Cluster) -> Node | None:
    is_old = cluster.node.at("http2_protocol_options").exists
    return None if _http2(cluster).exists or is_old else cluster.node.at("name")


def _slow_connect(cluster: Cluster) -> Node | None:
    timeout = cluster.node.at("connect_timeout")
    return timeout if (timeout.seconds or 5.0) > MAX_CONNECT_SECONDS else None


def _low_breakers(cluster: Cluster) -> Node | None:
    breakers = cluster.node.at("circuit_breakers")
    for one in breakers.at("thresholds"):
        requests = one.at("max_requests")
        if one.at("priority").text == "DEFAULT":
            return None if (requests.number or 1024) >= MIN_REQUESTS else requests
    return breakers


def _no_health_check(cluster: Cluster) -> Node | None:
    checks = cluster.node.at("health_checks")
    return None if any(one.at("grpc_health_check").exists for one in checks) else checks


def _panics(cluster: Cluster) -> Node | None:
    threshold = cluster.node.at("common_lb_config", "healthy_panic_threshold", "value")
    is_high = threshold.number is None or threshold.number > 10  # noqa: PLR2004 - a tenth of the workers
    return threshold if is_high and len(list(cluster.endpoints())) > 1 else None


def _late_news(cluster: Cluster) -> Node | None:
    window = cluster.node.at("common_lb_config", "update_merge_window")
    is_late = window.seconds is None or window.seconds > 0
    return window if is_late and len(list(cluster.endpoints())) > 1 else None


def _unbalanced(cluster: Cluster) -> Node | None:
    policy = cluster.node.at("lb_policy")
    named = cluster.node.at("load_balancing_policy").exists
    is_one = len(list(cluster.endpoints())) < 2  # noqa: PLR2004 - nothing to balance
    return None if policy.text == "LEAST_REQUEST" or named or is_one else policy


def _long_socket(config: EnvoyConfig) -> Iterator[Hit]:
    for cluster in config.workers():
        for endpoint in cluster.endpoints():
            if len(endpoint.pipe.encode()) > MAX_SOCKET_PATH_BYTES:
                yield Hit(endpoint.address.at("pipe", "path"))


def _same_socket(config: EnvoyConfig) -> Iterator[Hit]:
    for cluster in config.workers():
        seen: set[str] = set()
        for endpoint in cluster.endpoints():
            if endpoint.pipe and endpoint.pipe in seen:
                yield Hit(endpoint.address.at("pipe", "path"), endpoint.pipe)
            seen.add(endpoint.pipe)


def _in_the_clear(cluster: Cluster) -> Node | None:
    endpoints = list(cluster.endpoints())
    leaves = not endpoints or not cluster.is_local
    return cluster.node.at("transport_socket") if leaves and not cluster.tls.exists else None


def _narrow_window(cluster: Cluster) -> Node | None:
    window = _http2(cluster).at("initial_stream_window_size")
    # Envoy's default is 16 MiB; only a smaller one that is written down is too small.
    is_narrow = window.number is not None and window.number < MIN_STREAM_WINDOW
    return window if is_narrow else None


def _few_frames(cluster: Cluster) -> Node | None:
    is_new = _http2(cluster).exists
    options = _http2(cluster) if is_new else cluster.node.at("http2_protocol_options")
    frames = options.at("max_outbound_frames")
    is_few = (frames.number or 10_000) < MIN_OUTBOUND_FRAMES
    return frames if options.exists and is_few else None


def _fast_pings(cluster: Cluster) -> Node | None:
    interval = _http2(cluster).at("connection_keepalive", "interval")
    seconds = interval.seconds
    return interval if seconds is not None and seconds < MIN_PING_SECONDS else None


def _resets(config: EnvoyConfig) -> Iterator[Hit]:
    if config.bootstrap is None or not any(True for _ in config.filters()):
        return
    layers = config.bootstrap.at("layered_runtime", "layers")
    for layer in layers:
        if str(layer.at("static_layer", GRACEFUL_CLOSE).value).lower() == "true":
            return
    yield Hit(layers)


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR201", "workers-missing", _E,
         "ext_proc names a cluster that is missing in this configuration: every request fails",
         "add the cluster, or name it with --cluster", _missing),
    ConfigRule("EGR202", "workers-not-http2", _E,
         "gRPC needs HTTP/2; Envoy would speak HTTP/1.1 and every request fails",
         "explicit_http_config: {http2_protocol_options: {}}", _where(_no_http2)),
    ConfigRule("EGR203", "workers-connect-timeout", _W,
         "a dead worker delays requests up to this long before another is tried",
         "connect_timeout: 0.25s", _where(_slow_connect)),
    ConfigRule("EGR204", "workers-circuit-breakers", _W,
         "each request being checked holds a stream; past 1024, Envoy's default, requests fail",
         "circuit_breakers: {thresholds: [{max_requests: 65536, max_pending_requests: 65536, "
         "max_connections: 4096, max_retries: 4096}]}", _where(_low_breakers)),
    ConfigRule("EGR205", "workers-health-check", _W,
         "a draining worker still gets requests until its socket closes",
         "health_checks with grpc_health_check: {}, interval 1s", _where(_no_health_check)),
    ConfigRule("EGR206", "workers-panic-threshold", _W,
         "with half of the workers unhealthy, Envoy's default sends requests to dead ones as well",
         "common_lb_config: {healthy_panic_threshold: {value: 1}}", _where(_panics)),
    ConfigRule("EGR207", "workers-outlier-detection", _N,
         "a worker that fails every request is used until its health check fails",
         "outlier_detection with consecutive_gateway_failure",
         _where(lambda cluster: absent("outlier_detection")(cluster.node))),
    ConfigRule("EGR208", "workers-balance", _N,
         "new requests also go to a worker that is busy with slow ones",
         "lb_policy: LEAST_REQUEST", _where(_unbalanced)),
    ConfigRule("EGR209", "socket-path-too-long", _E,
         "longer than the system's limit of 107 bytes; the worker cannot bind it",
         "a shorter folder", _long_socket),
    ConfigRule("EGR210", "socket-shared", _E,
         "two workers cannot share a socket: one of them idles",
         "a socket for each worker", _same_socket),
    ConfigRule("EGR211", "workers-in-the-clear", _E,
         "keys and prompts leave this machine without TLS",
         "a Unix socket, or a transport_socket with mutual TLS", _where(_in_the_clear)),
    ConfigRule("EGR212", "workers-stream-window", _N,
         "the rest of a body that is longer than the window waits in the worker until Envoy has "
         "read its beginning",
         "initial_stream_window_size: 16777216", _where(_narrow_window)),
    ConfigRule("EGR213", "workers-pings", _W,
         "a gRPC server answers frequent pings with GOAWAY and closes the connection",
         "connection_keepalive with an interval of 1s or more", _where(_fast_pings)),
    ConfigRule("EGR214", "graceful-close", _N,
         "nearly every stream ends in a reset, and Envoy's count of resets no longer shows "
         "faults; Envoy reads this at its start only",
         f"layered_runtime: a static_layer with {GRACEFUL_CLOSE}: true", _resets),
    ConfigRule("EGR215", "workers-merge-window", _W,
         "by default the load balancer is updated up to 1 s after a worker died or came back; "
         "until then requests go to the dead one",
         "common_lb_config: {update_merge_window: 0s}", _where(_late_news)),
    ConfigRule("EGR216", "workers-outbound-frames", _W,
         "Envoy closes a connection on which more than 10,000 frames wait, its default: a client "
         "that sends a body in frames of one byte cuts off all other requests on it",
         "http2_protocol_options: {max_outbound_frames: 4294967295}", _where(_few_frames)),
)  # fmt: skip
