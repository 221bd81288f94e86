"""Envoys of the benches: the shipped configuration with and without Egret, and the provider.

TLS is removed on both sides, where it costs the same with and without Egret; all else of the
configuration stays: limits, access log, credential injection, timing headers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from egret_tools.devstack.processes import Child, Children, Program, envoy_program, until_ready

from sidecar.settings.sections import inherited_environment

BARE: Final = "envoy"
"""The name of the Envoy without Egret."""
STREAMED: Final = "x-bench-streamed"
"""Header of requests that a streaming provider answers."""
ANSWER: Final = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":'
    '[{"index":0,"message":{"role":"assistant","content":"Done."},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":200,"completion_tokens":2,"total_tokens":202}}'
)
_TYPES: Final = "type.googleapis.com/envoy.extensions"
_EXT_PROC: Final = "envoy.filters.http.ext_proc"
_OF_EGRET: Final = {
    _EXT_PROC,
    "envoy.filters.http.set_filter_state",
    "envoy.access_loggers.open_telemetry",
}

Config = dict[str, Any]


def shipped_config(
    text: str,
    *,
    provider: Config,
    over_http1: bool = False,
    is_bare: bool = False,
    is_buffered: bool = False,
    session_header: str = "",
) -> str:
    """Return the rendered configuration *text* with its plain listener only and *provider*.

    *is_bare* removes Egret. With *is_buffered* Envoy keeps a request's body, and sends it whole.
    By a *session_header* all requests of a session go to one worker.
    """
    config: Config = yaml.safe_load(text)
    resources = config["static_resources"]
    plain = next(one for one in resources["listeners"] if one["name"] == "http")
    if is_buffered:  # as docs/envoy.md says under "Long bodies"
        for manager in _managers(plain):
            for one in manager["http_filters"]:
                if one["name"] == _EXT_PROC:
                    one["typed_config"]["processing_mode"]["request_body_mode"] = "BUFFERED"
            for host in manager["route_config"]["virtual_hosts"]:
                for route in host["routes"]:
                    route["request_body_buffer_limit"] = 10 << 20
    if session_header:
        _send_by_session(plain, resources["clusters"], session_header)
    resources["listeners"] = [_bare_listener(plain) if is_bare else plain]
    resources["clusters"] = [
        _answered_here(cluster, provider, over_http1=over_http1)
        if cluster["name"] in {"openai", "anthropic"}
        else cluster
        for cluster in resources["clusters"]
        if not (is_bare and cluster["name"] == "egret")
    ]
    return json.dumps(config, indent=1)


def _send_by_session(listener: Config, clusters: Sequence[Config], header: str) -> None:
    """Change a configuration as docs/envoy.md says under "Sessions"."""
    for manager in _managers(listener):
        for one in manager["http_filters"]:
            if one["name"] == _EXT_PROC:
                metadata = one["typed_config"]["grpc_service"].setdefault("initial_metadata", [])
                metadata.append({"key": header, "value": f"%REQ({header})%"})
    ring = f"{_TYPES}.load_balancing_policies.ring_hash.v3.RingHash"
    hashing = {
        "hash_balance_factor": 150,
        "hash_policy": [{"header": {"header_name": header}}],
    }
    config = {"@type": ring, "consistent_hashing_lb_config": hashing}
    policy = {"name": "envoy.load_balancing_policies.ring_hash", "typed_config": config}
    for cluster in clusters:
        if cluster["name"] == "egret":
            del cluster["lb_policy"]
            cluster["load_balancing_policy"] = {"policies": [{"typed_extension_config": policy}]}


def provider_config(address: Config, *, streams: Config) -> str:
    """Return an Envoy that answers at once, or by *streams* where the header `STREAMED` is."""
    listener = provider_listener(address)
    (manager,) = _managers(listener)
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    header = {"name": STREAMED, "present_match": True}
    streamed = {"cluster": "streams", "timeout": "0s"}
    routes.insert(0, {"match": {"prefix": "/", "headers": [header]}, "route": streamed})
    cluster = {
        "name": "streams",
        "type": "STATIC",
        "load_assignment": _endpoints("streams", [streams]),
    }
    resources = {"listeners": [listener], "clusters": [cluster]}
    return json.dumps({"admin": {"address": port_address(0)}, "static_resources": resources})


def _bare_listener(plain: Config) -> Config:
    listener = copy.deepcopy(plain)
    for manager in _managers(listener):
        manager["stat_prefix"] = BARE
        manager.pop("tracing", None)
        for part in ("http_filters", "access_log"):
            manager[part] = [one for one in manager[part] if one["name"] not in _OF_EGRET]
    return listener


def _managers(listener: Config) -> Iterator[Config]:
    for chain in listener["filter_chains"]:
        for one in chain["filters"]:
            yield one["typed_config"]


def _answered_here(cluster: Config, provider: Config, *, over_http1: bool) -> Config:
    """Keep the changes that a provider's cluster makes to requests; send them to our provider."""
    kept = copy.deepcopy(cluster)
    for name in ("cluster_type", "transport_socket", "upstream_connection_options"):
        kept.pop(name, None)
    kept["type"] = "STATIC"
    kept["load_assignment"] = _endpoints(kept["name"], [provider])
    protocol = next(iter(kept["typed_extension_protocol_options"].values()))
    # `auto_config` picks by ALPN, which takes TLS.
    protocol["explicit_http_config"] = protocol.pop("auto_config")
    if over_http1:
        protocol["explicit_http_config"] = {"http_protocol_options": {}}
    return kept


def socket_address(path: str) -> Config:
    """Return the address of a Unix socket."""
    return {"pipe": {"path": path}}


def port_address(port: int) -> Config:
    """Return the address of a port of this machine; 0 is a free one."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _endpoints(name: str, addresses: Sequence[Config]) -> Config:
    endpoints = [{"endpoint": {"address": address}} for address in addresses]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def provider_listener(address: Config) -> Config:
    """Answer every request once its body is in.

    Without the buffer filter a direct response would leave before the body came, and close.
    """
    return {
        "name": "provider",
        "address": address,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {
                            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3"
                            ".HttpConnectionManager",
                            "stat_prefix": "provider",
                            "http_filters": [
                                _http_filter("buffer", "Buffer", max_request_bytes=1 << 26),
                                _http_filter("router", "Router"),
                            ],
                            "route_config": _provider_routes(),
                        },
                    }
                ]
            }
        ],
    }


def _http_filter(name: str, kind: str, **fields: object) -> Config:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_TYPES}.filters.http.{name}.v3.{kind}", **fields},
    }


def _provider_routes() -> Config:
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": ANSWER}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
    return {"virtual_hosts": [{"name": "provider", "domains": ["*"], "routes": [route]}]}


@asynccontextmanager
async def running_bench_envoy(
    children: Children, *, config: str, directory: Path, threads: int
) -> AsyncIterator[tuple[int, Mapping[str, int]]]:
    """Run Envoy in *directory* and yield its pid and the port of each listener by name.

    Raises:
        PartError: it does not come up.
    """
    file, admin = directory / "envoy.yaml", directory / "envoy-admin-address"
    file.write_text(config, encoding="utf-8")
    program = Program(
        part="Envoy",
        command=(
            str(envoy_program()),
            *("-c", str(file), "--admin-address-path", str(admin)),
            *("--concurrency", str(threads), "--disable-hot-restart", "--log-level", "warning"),
        ),
        log=directory / "envoy.log",
        environment=inherited_environment(),
    )
    async with children.running(program) as child:
        yield child.pid, await _ports(child, admin)


async def _ports(child: Child, admin: Path) -> Mapping[str, int]:
    async with aiohttp.ClientSession() as client:

        async def is_live() -> bool:
            try:
                async with client.get(f"http://{_read(admin)}/ready") as answer:
                    return answer.ok
            except (aiohttp.ClientError, ValueError):  # no address yet, or no listener
                return False

        await until_ready(child, is_live)
        async with client.get(f"http://{_read(admin)}/listeners?format=json") as answer:
            listeners = (await answer.json(content_type=None))["listener_statuses"]
    addresses = {one["name"]: one["local_address"] for one in listeners}
    return {
        name: int(address["socket_address"]["port_value"])
        for name, address in addresses.items()
        if "socket_address" in address
    }


def _read(admin: Path) -> str:
    return admin.read_text(encoding="utf-8").strip() if admin.exists() else ""
