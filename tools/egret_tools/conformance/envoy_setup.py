"""The Envoy of a conformance run: its configuration, and its counters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import aiohttp

from egret_tools.conformance.modes import MODES, Mode, whole_mode
from egret_tools.conformance.target import Target, envoy_address

SERVER_CLUSTER: Final = "ext_proc"
UPSTREAM_CLUSTER: Final = "upstream"
OTHER_CLUSTER: Final = "other_ext_proc"
FILTER_PREFIX: Final = "server"
WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Above the largest body that comes back: a server need not wait in the middle of one."""
CONNECTION_WINDOW_BYTES: Final = 1024 * 1024

_TYPE: Final = "type.googleapis.com/envoy.extensions"
_LOOPBACK: Final = "127.0.0.1"


def envoy_config(target: Target, *, upstream_port: int, modes: Iterable[str], other: Path) -> str:
    """Return the configuration as JSON, which is YAML as well.

    *other* is the socket of the processor beside the server's, in modes that have one.
    """
    kind, address = envoy_address(target)
    upstream: dict[str, object] = {
        "socket_address": {"address": _LOOPBACK, "port_value": upstream_port}
    }
    return json.dumps(
        {
            "node": {"id": "egret-conformance", "cluster": "egret-conformance"},
            "admin": {"address": {"socket_address": {"address": _LOOPBACK, "port_value": 0}}},
            "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
            "static_resources": {
                "listeners": [_listener(name, MODES[name]) for name in modes],
                "clusters": [
                    _cluster(SERVER_CLUSTER, kind, address) | _HTTP2,
                    _cluster(UPSTREAM_CLUSTER, "STATIC", upstream),
                    _cluster(OTHER_CLUSTER, "STATIC", {"pipe": {"path": str(other)}}) | _HTTP2,
                ],
            },
        },
        indent=1,
    )


_RUNTIME: Final = {
    # Without it nearly every stream ends in a reset.
    "envoy.reloadable_features.ext_proc_graceful_grpc_close": True,
    # Long enough to see that a server has left a stream open, before Envoy cuts it off.
    "envoy.filters.http.ext_proc.remote_close_timeout_milliseconds": 10_000,
}
_HTTP2: Final = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {
                "http2_protocol_options": {
                    "initial_stream_window_size": WINDOW_BYTES,
                    "initial_connection_window_size": 16 * WINDOW_BYTES,
                }
            },
        }
    }
}


def _cluster(name: str, kind: str, address: dict[str, object]) -> dict[str, object]:
    return {
        "name": name,
        "type": kind,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _listener(name: str, mode: Mode) -> dict[str, object]:
    return {
        "name": name,
        "address": {"socket_address": {"address": _LOOPBACK, "port_value": 0}},
        "per_connection_buffer_limit_bytes": mode.buffer_bytes,
        "filter_chains": [{"filters": [_connection_manager(name, mode)]}],
    }


def _connection_manager(name: str, mode: Mode) -> dict[str, object]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "codec_type": "AUTO",
            "stream_idle_timeout": "30s",
            # Over HTTP/2 the stream's window bounds Envoy's buffer.
            "http2_protocol_options": {
                "initial_stream_window_size": mode.buffer_bytes,
                "initial_connection_window_size": max(mode.buffer_bytes, CONNECTION_WINDOW_BYTES),
            },
            "http_filters": [
                *([] if mode.behind is None else [_other_filter(mode.behind)]),
                {"name": "envoy.filters.http.ext_proc", "typed_config": _ext_proc(mode)},
                *([] if mode.before is None else [_other_filter(mode.before)]),
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
                },
            ],
            "route_config": {"virtual_hosts": [_VIRTUAL_HOST]},
        },
    }


LOCAL_REPLY_HEADER: Final = "x-conformance-local-reply"
"""A request with it is answered by Envoy itself."""

_VIRTUAL_HOST: Final = {
    "name": "all",
    "domains": ["*"],
    "routes": [
        {
            "match": {
                "prefix": "/",
                "headers": [{"name": LOCAL_REPLY_HEADER, "present_match": True}],
            },
            "direct_response": {"status": 418, "body": {"inline_string": "from Envoy"}},
        },
        {"match": {"prefix": "/"}, "route": {"cluster": UPSTREAM_CLUSTER, "timeout": "0s"}},
    ],
}


def _other_filter(fields: dict[str, str]) -> dict[str, object]:
    settings = {
        "@type": f"{_TYPE}.filters.http.ext_proc.v3.ExternalProcessor",
        "stat_prefix": OTHER_CLUSTER,
        "message_timeout": "10s",
        "processing_mode": whole_mode(fields),
        "grpc_service": {"envoy_grpc": {"cluster_name": OTHER_CLUSTER}},
    }
    return {"name": OTHER_CLUSTER, "typed_config": settings}


def _ext_proc(mode: Mode) -> dict[str, object]:
    return {
        "@type": f"{_TYPE}.filters.http.ext_proc.v3.ExternalProcessor",
        "stat_prefix": FILTER_PREFIX,
        "failure_mode_allow": False,
        "message_timeout": "10s",
        "allow_mode_override": mode.may_override,
        "processing_mode": whole_mode(mode.fields),
        "request_attributes": ["source.address"],
        "metadata_options": {"receiving_namespaces": {"untyped": ["egret"]}},
        "grpc_service": {"envoy_grpc": {"cluster_name": SERVER_CLUSTER}},
    }


OPEN_STREAMS: Final = "upstream_rq_active"
"""Of the cluster: open streams."""
SERVER_RESETS: Final = "upstream_rq_rx_reset"
"""Of the cluster: streams that the server reset, where it should have ended them."""

CLIENT_REQUESTS: Final = "downstream_rq_active"
UPSTREAM_REQUESTS: Final = "upstream.upstream_rq_active"
_LEVELS: Final = (OPEN_STREAMS, CLIENT_REQUESTS, UPSTREAM_REQUESTS)
"""Of the listener and of the upstream's cluster: requests that are not over."""

Counters = Mapping[str, int]


async def read_counters(client: aiohttp.ClientSession, admin_url: str, *, mode: str) -> Counters:
    """Return the filter's counters by name, and those of the cluster."""
    filter_prefix = f"http.{mode}.ext_proc.{FILTER_PREFIX}."
    server_prefix = f"cluster.{SERVER_CLUSTER}."
    wanted = (
        f"^http.{mode}.ext_proc|^http.{mode}.{CLIENT_REQUESTS}$"
        f"|^cluster.({SERVER_CLUSTER}|{UPSTREAM_CLUSTER}).upstream_rq_(active|rx_reset)$"
    )
    async with client.get(f"{admin_url}/stats", params={"filter": wanted}) as answer:
        lines = (await answer.text()).splitlines()
    pairs = (line.rpartition(": ") for line in lines)
    prefixes = (filter_prefix, f"http.{mode}.", server_prefix, "cluster.")
    return {_without(prefixes, name): int(value) for name, _, value in pairs if value.isdigit()}


def _without(prefixes: Iterable[str], name: str) -> str:
    found = next((one for one in prefixes if name.startswith(one)), "")
    return name.removeprefix(found)


def since(before: Counters, now: Counters) -> Counters:
    """Return the counts in between, and the levels as they are now."""
    return {
        name: value if name in _LEVELS else value - before.get(name, 0)
        for name, value in now.items()
    }


def is_busy(counted: Counters) -> bool:
    """Return whether Envoy still has a request or a stream that is not over."""
    return any(counted.get(name) for name in _LEVELS)
