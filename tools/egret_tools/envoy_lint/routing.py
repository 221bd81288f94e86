"""Parts of routes: by which names they go, and to which clusters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.source import Node
from sidecar.domain.metadata import MetadataKey

CLUSTER_ACTION: Final = "envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction"
ROUTE: Final = "envoy.config.route.v3.Route"
ROUTE_LIST: Final = "envoy.config.route.v3.RouteList"
MODEL_HEADER: Final = "x-egret-model"
NAMESPACE: Final = "egret"
"""Of Egret's dynamic metadata."""
CHOICES: Final = frozenset(
    {
        MetadataKey.PROVIDER_CREDENTIAL,
        MetadataKey.PROVIDER_REGION,
        MetadataKey.PROVIDER_ORDER,
    }
)


def goes_by_model(route: Node) -> bool:
    """Return whether Egret's own header selects a route, or its cluster."""
    names = [one.at("name").text for one in route.at("match", "headers")]
    names.append(route.at("route", "cluster_header").text)
    return MODEL_HEADER in (name.lower() for name in names)


def goes_by_models(route_config: Node) -> bool:
    """Return whether any route of a route configuration does."""
    routes = (route for host in route_config.at("virtual_hosts") for route in routes_of(host))
    return any(goes_by_model(route) for route in routes)


def choices(route: Node, *, absent: bool = False) -> set[str]:
    """Return the names of a policy's provider that a route requires, or requires to be absent."""
    found: set[str] = set()
    for one in route.at("match", "dynamic_metadata"):
        steps = [step.at("key").text for step in one.at("path")]
        if one.at("filter").text == NAMESPACE and one.at("invert").is_true is absent:
            found.update(CHOICES.intersection(steps))
    return found


def goes_by_choice(route_config: Node) -> bool:
    """Return whether any route of a route configuration requires one of these names."""
    routes = (route for host in route_config.at("virtual_hosts") for route in routes_of(host))
    return any(map(choices, routes))


def is_open(action: Node) -> bool:
    """Return whether a header or a plugin names the cluster of a route's action."""
    shares = action.at("weighted_clusters", "clusters")
    by_plugin = action.at("inline_cluster_specifier_plugin").exists and not any(targets(action))
    by_header = any(one.at("cluster_header").text for one in (action, *shares))
    return by_header or by_plugin or bool(action.at("cluster_specifier_plugin").text)


def targets(action: Node) -> Iterator[str]:
    """Yield the clusters that a route's action, or a TCP proxy, may send to."""
    yield action.at("cluster").text
    for one in action.at("weighted_clusters", "clusters"):
        yield one.at("name").text
    yield from specified(action.at("inline_cluster_specifier_plugin"))


def specified(plugin: Node) -> Iterator[str]:
    """Yield the clusters that a plugin may choose, by the groups or the matcher that it has."""
    settings = plugin.at("extension", "typed_config")
    for group in settings.at("priority_groups"):
        for one in group.at("clusters"):
            yield one.at("cluster_name").text
    for one in settings.at("cluster_matcher").tree():
        if one.type_name == CLUSTER_ACTION:
            yield one.at("cluster").text


def routes_of(host: Node) -> Iterator[Node]:
    """Yield the routes of a virtual host, and those among the actions of its matcher."""
    yield from host.at("routes")
    pending = [host.at("matcher")]
    while pending:
        one = pending.pop()
        if one.type_name == ROUTE:
            yield one
        elif one.type_name == ROUTE_LIST:
            yield from one.at("routes")
        else:
            pending += [*one, *(held for _, held in one.entries())]
