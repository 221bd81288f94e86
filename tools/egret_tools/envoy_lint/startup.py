"""Reasons why Envoy does not start although every value is right: checks of a whole bootstrap.

Each is a check of Envoy's own (`envoy --mode validate` refuses it), on what stands in one file;
files that a configuration names are not read.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from egret_tools.envoy_lint.config import Cluster, EnvoyConfig, Listener
from egret_tools.envoy_lint.routing import routes_of, targets
from egret_tools.envoy_lint.rule import Hit
from egret_tools.envoy_lint.source import Node

_ROUTER: Final = "envoy.extensions.filters.http.router.v3.Router"
_DOWNSTREAM_TLS: Final = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def refusals(config: EnvoyConfig) -> Iterator[Hit]:
    """Yield the places for which Envoy refuses a static configuration."""
    if config.bootstrap is None:
        return
    yield from _twice((one.node.at("name") for one in config.clusters), "cluster")
    for cluster in config.clusters:
        yield from _of_cluster(cluster)
    for node in config.bootstrap.at("static_resources", "listeners"):
        yield from _of_listener(node)
    names = {cluster.name for cluster in config.clusters}
    for listener in config.listeners:
        yield from _of_filters(listener)
        yield from _of_routes(listener.hcm.at("route_config"), names)


def _twice(nodes: Iterable[Node], kind: str) -> Iterator[Hit]:
    seen: Counter[str] = Counter()
    for node in nodes:
        seen[node.text] += 1
        if node.text and seen[node.text] == 2:  # noqa: PLR2004 - the second one
            yield Hit(node, f"a second {kind} `{node.text}`")


def _of_cluster(cluster: Cluster) -> Iterator[Hit]:
    kind = cluster.node.at("type").text or "STATIC"
    if cluster.node.at("cluster_type").exists:
        return
    addresses = [one.address.at("socket_address") for one in cluster.endpoints()]
    if kind == "STATIC":
        for one in addresses:
            if one.exists and not one.at("resolver_name").text and not _is_ip(one):
                host = one.at("address").text
                yield Hit(one.at("address"), f"`{host}` is no IP address: use type STRICT_DNS")
    elif kind == "LOGICAL_DNS" and len(list(cluster.endpoints())) != 1:
        yield Hit(cluster.node.at("load_assignment"), "LOGICAL_DNS has exactly one endpoint")
    elif kind == "EDS" and not cluster.node.at("eds_cluster_config").exists:
        yield Hit(cluster.node.at("type"), "EDS needs `eds_cluster_config`")


def _is_ip(address: Node) -> bool:
    try:
        ipaddress.ip_address(address.at("address").text)
    except ValueError:
        return False
    return True


def _of_listener(node: Node) -> Iterator[Hit]:
    address = node.at("address", "socket_address")
    if address.exists and not address.at("resolver_name").text and not _is_ip(address):
        host = address.at("address").text
        yield Hit(address.at("address"), f"a listener needs an IP address, not `{host}`")
    is_tcp = node.at("address", "socket_address", "protocol").text != "UDP"
    has_chain = bool(node.at("filter_chains").value) or node.at("default_filter_chain").exists
    if is_tcp and not has_chain and not node.at("api_listener").exists:
        yield Hit(node, "a listener needs a filter chain")
    for chain in [*node.at("filter_chains"), node.at("default_filter_chain")]:
        typed = chain.at("transport_socket", "typed_config")
        common = typed.at("common_tls_context")
        names = (
            "tls_certificates", "tls_certificate_sds_secret_configs",
            "tls_certificate_provider_instance", "tls_certificate_certificate_provider",
            "tls_certificate_certificate_provider_instance", "custom_tls_certificate_selector",
        )  # fmt: skip
        if typed.type_name == _DOWNSTREAM_TLS and not any(common.at(name).value for name in names):
            yield Hit(common, "a server needs a certificate")


def _of_filters(listener: Listener) -> Iterator[Hit]:
    detection = listener.hcm.at("original_ip_detection_extensions")
    if detection.value and listener.hcm.at("use_remote_address").is_true:
        yield Hit(detection, "`use_remote_address` and this exclude each other")
    filters = list(listener.hcm.at("http_filters"))
    for position, one in enumerate(filters, start=1):
        typed = one.at("typed_config")
        is_last = position == len(filters)
        if typed.type_name == _ROUTER and not is_last:
            yield Hit(one, "the router must be the last filter")
        elif is_last and typed.type_name.startswith("envoy.") and typed.type_name not in _MAY_END:
            yield Hit(one, "the last filter must be one that ends the chain, such as router")


_MAY_END: Final = frozenset({
    _ROUTER,
    "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
    "envoy.extensions.filters.http.match_delegate.v3.ExtensionWithMatcher",
    "envoy.extensions.filters.http.composite.v3.Composite",
})  # fmt: skip


def _of_routes(routes: Node, clusters: set[str]) -> Iterator[Hit]:
    hosts = list(routes.at("virtual_hosts"))
    yield from _twice((one for host in hosts for one in host.at("domains")), "domain")
    if routes.at("validate_clusters").value is False:
        return
    for host in hosts:
        for route in routes_of(host):
            action = route.at("route")
            for name in targets(action):
                if name and name not in clusters:
                    own = action.at("cluster")
                    yield Hit(own if own.text else action, f"there is no cluster `{name}`")
