"""The pieces of which the configurations are built."""

from __future__ import annotations

import json
from typing import Any, Final

import yaml

Part = dict[str, Any]

_PREFIX: Final = "type.googleapis.com/"
_EXTENSIONS: Final = f"{_PREFIX}envoy.extensions."
EVERYTHING: Final[Part] = {"match": {"prefix": "/"}, "route": {"cluster": "service"}}


def typed(name: str, **fields: Any) -> Part:
    """Return an extension by the end of its type, such as `filters.http.cors.v3.Cors`."""
    return {"@type": f"{_EXTENSIONS}{name}", **fields}


def named(name: str, kind: str, **fields: Any) -> Part:
    """Return an entry of a list of extensions."""
    return {"name": name, "typed_config": typed(kind, **fields)}


def http_filter(kind: str, **fields: Any) -> Part:
    """Return an HTTP filter; its name is made of its package."""
    package = kind.partition(".")[0]
    return named(f"envoy.filters.http.{package}", f"filters.http.{kind}", **fields)


ROUTER: Final = http_filter("router.v3.Router")


def ext_proc(cluster: str, **fields: Any) -> Part:
    """Return the filter that asks a server at *cluster*."""
    service = {"envoy_grpc": {"cluster_name": cluster}}
    return http_filter("ext_proc.v3.ExternalProcessor", grpc_service=service, **fields)


def socket(port: int, host: str = "127.0.0.1", **fields: Any) -> Part:
    """Return an address."""
    return {"socket_address": {"address": host, "port_value": port, **fields}}


def hosts(*routes: Part, **fields: Any) -> Part:
    """Return a route configuration of one virtual host."""
    all_routes = list(routes) or [EVERYTHING]
    return {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": all_routes, **fields}]}


def manager(*filters: Part, **fields: Any) -> Part:
    """Return an HTTP connection manager with a router behind *filters*."""
    routing = {} if "rds" in fields else {"route_config": hosts()}
    settings = {"stat_prefix": "ingress", **routing, "http_filters": [*filters, ROUTER], **fields}
    return named(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        **settings,
    )


def tcp_proxy(cluster: str = "service", **fields: Any) -> Part:
    """Return a filter that forwards bytes."""
    kind = "filters.network.tcp_proxy.v3.TcpProxy"
    return named("envoy.filters.network.tcp_proxy", kind, stat_prefix="tcp", cluster=cluster,
                 **fields)  # fmt: skip


def listener(*filters: Part, port: int = 10000, **fields: Any) -> Part:
    """Return a listener with one chain of network filters."""
    return {"name": f"listener_{port}", "address": socket(port),
            "filter_chains": [{"filters": list(filters)}], **fields}  # fmt: skip


def cluster(name: str = "service", *, host: str = "127.0.0.1", **fields: Any) -> Part:
    """Return a cluster with one endpoint."""
    kind = "STATIC" if host[0].isdigit() else "STRICT_DNS"
    endpoint = {"endpoint": {"address": socket(8080, host)}}
    return {
        "name": name,
        "type": kind,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **fields,
    }


def http2(name: str, **fields: Any) -> Part:
    """Return a cluster that speaks HTTP/2."""
    kind = "upstreams.http.v3.HttpProtocolOptions"
    options = typed(kind, explicit_http_config={"http2_protocol_options": {}})
    return cluster(
        name, typed_extension_protocol_options={f"envoy.extensions.{kind}": options}, **fields
    )


def static(*listeners: Part, clusters: tuple[Part, ...] = (), **fields: Any) -> Part:
    """Return a whole static configuration."""
    resources = {"listeners": list(listeners), "clusters": list(clusters) or [cluster()]}
    return {"static_resources": resources, **fields}


def web(*filters: Part, clusters: tuple[Part, ...] = (), **fields: Any) -> Part:
    """Return a listener with these HTTP filters and a service behind it."""
    return static(listener(manager(*filters, **fields)), clusters=(cluster(), *clusters))


def yaml_of(config: Part) -> str:
    """Return a configuration as people write it."""
    return yaml.safe_dump(config, sort_keys=False)


def json_of(config: Part) -> str:
    """Return a configuration as programs write it: JSON with the names of protobuf's JSON."""
    return json.dumps(_camel(config), indent=1)


def _camel(value: Any) -> Any:
    if isinstance(value, list):
        return [_camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {_camel_name(key): _camel(item) for key, item in value.items()}


def _camel_name(name: str) -> str:
    if "." in name or "@" in name:
        return name
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)
