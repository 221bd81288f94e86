"""The parts of a configuration that rules read, the same for each form of input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from typing_extensions import override

from egret_tools.envoy_lint.routing import is_open, routes_of, specified, targets
from egret_tools.envoy_lint.schema import HCM
from egret_tools.envoy_lint.source import JsonValue, Node

DEFAULT_CLUSTER: Final = "egret"
EXT_PROC: Final = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
EXT_PROC_NAME: Final = "envoy.filters.http.ext_proc"
EXT_PROC_PER_ROUTE: Final = "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
FILTER_SWITCH: Final = "envoy.config.route.v3.FilterConfig"
FORWARD_PROXY: Final = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TCP_PROXY: Final = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
COMPOSITE: Final = "envoy.extensions.filters.http.composite.v3.Composite"
EXECUTE_FILTER: Final = "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction"
WITH_MATCHER: Final = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
UPSTREAM_QUIC: Final = "envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport"
UPSTREAM_TLS: Final = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
CREDENTIALS: Final = (
    *("authorization", "x-api-key", "api-key", "x-goog-api-key"),
    "ocp-apim-subscription-key",
)
"""Headers in which clients send keys to providers."""
_LOOPBACK: Final = ("127.", "::1", "localhost")
_THIS_MACHINE: Final = (*_LOOPBACK, "0.0.0.0", "::")  # noqa: S104 - an admin that is open


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a cluster."""

    address: Node

    @property
    def pipe(self) -> str:
        """The path of a Unix socket, empty for another address."""
        return self.address.at("pipe", "path").text

    @property
    def is_local(self) -> bool:
        """Return whether traffic to it stays on this machine."""
        host = self.address.at("socket_address", "address").text
        is_internal = self.address.at("envoy_internal_address").exists
        return bool(self.pipe) or is_internal or host.startswith(_LOOPBACK)

    def is_same(self, other: Endpoint) -> bool:
        """Return whether it is the same socket, or the same port of this machine."""
        sockets = [one.address.at("socket_address") for one in (self, other)]
        hosts = [one.at("address").text for one in sockets]
        own, others = (
            (end.pipe, "" if host.startswith(_THIS_MACHINE) else host, one.at("port_value").value)
            for end, host, one in zip((self, other), hosts, sockets, strict=True)
        )
        return own == others and any(own)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One upstream cluster."""

    node: Node

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.at("name").text

    def endpoints(self) -> Iterator[Endpoint]:
        """Yield the addresses that stand in the configuration."""
        for locality in self.node.at("load_assignment", "endpoints"):
            for one in locality.at("lb_endpoints"):
                yield Endpoint(one.at("endpoint", "address"))

    @property
    def is_local(self) -> bool:
        """Return whether every address is on this machine."""
        endpoints = list(self.endpoints())
        return bool(endpoints) and all(one.is_local for one in endpoints)

    @property
    def is_forward_proxy(self) -> bool:
        """Return whether it connects to the host that each request names."""
        return self.node.at("cluster_type", "typed_config").type_name == FORWARD_PROXY

    @property
    def members(self) -> frozenset[str]:
        """The clusters of an aggregate or a composite, empty for any other."""
        listed = self.node.at("cluster_type", "typed_config", "clusters")
        return frozenset(one.text or one.at("name").text for one in listed)

    @property
    def http_options(self) -> Node:
        """Its `HttpProtocolOptions`."""
        return self.node.at("typed_extension_protocol_options", HTTP_OPTIONS)

    @property
    def tls(self) -> Node:
        """Its `UpstreamTlsContext`; does not exist where there is no TLS."""
        return tls_of(self.node.at("transport_socket"))

    def http_filters(self) -> Iterator[Node]:
        """Yield the settings of its upstream HTTP filters."""
        for one in self.http_options.at("http_filters"):
            yield one.at("typed_config")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener, one of its filter chains, and the HTTP connection manager in it."""

    node: Node
    chain: Node
    hcm: Node

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can connect."""
        more = [one.at("address") for one in self.node.at("additional_addresses")]
        return all(Endpoint(one).is_local for one in (self.node.at("address"), *more))

    def ext_procs(self) -> Iterator[Node]:
        """Yield the HTTP filters (not their settings) that are ext_proc, also behind a matcher."""
        for one in self.hcm.at("http_filters"):
            typed, name = settings_of(one), one.at("name").text
            # A patch of a filter may leave out its settings.
            is_bare = not typed.exists and not one.at("config_discovery").exists
            if typed.type_name == EXT_PROC or (is_bare and name == EXT_PROC_NAME):
                yield one


@dataclass(frozen=True, slots=True)
class TcpListener:
    """A listener, and a TCP proxy in one of its filter chains."""

    node: Node
    proxy: Node


@dataclass(frozen=True, slots=True, order=True)
class EnvoyVersion:
    """A minor version of Envoy: configurations change between those."""

    major: int
    minor: int

    @classmethod
    def of(cls, text: str) -> EnvoyVersion:
        """Read `1.38`."""
        major, _, minor = text.partition(".")
        return cls(int(major), int(minor))

    @override
    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True)  # without slots, which leave no room for cached properties
class EnvoyConfig:
    """The input of rules. `egret` has the names of the clusters of Egret's workers.

    `whole` tells that this is all of an Envoy's configuration, so that what is not here is
    nowhere; a resource for a gateway is a part. `envoy` is the version that runs it, where it is
    known: a config dump says it. `nodes` are all listeners of any protocol; `elsewhere` are those,
    and the route configurations, that `scope` has left out of the others.
    """

    listeners: tuple[Listener, ...] = ()
    tcp_listeners: tuple[TcpListener, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    route_configs: tuple[Node, ...] = ()
    bootstrap: Node | None = None
    loose_filters: tuple[Node, ...] = ()
    egret: frozenset[str] = frozenset({DEFAULT_CLUSTER})
    whole: bool = True
    place: Node | None = field(default=None)
    envoy: EnvoyVersion | None = None
    nodes: tuple[Node, ...] = ()
    elsewhere: tuple[Node, ...] = ()

    def filters(self) -> Iterator[Node]:
        """Yield the settings of every ext_proc filter that asks Egret."""
        yield from map(settings_of, self.filter_entries())
        yield from self.loose_filters

    def filter_entries(self) -> Iterator[Node]:
        """Yield the entries of `http_filters` that ask Egret."""
        for listener in self.listeners:
            for one in listener.ext_procs():
                if self.asks_egret(settings_of(one)):
                    yield one

    def ext_proc_overrides(self) -> Iterator[Node]:
        """Yield every setting of ext_proc that replaces the filter's own on a part of the routes.

        Envoy finds it by the filter's name, and takes one in a `FilterConfig` as well, which may
        disable a filter of any type.
        """
        own = {one.at("name").text for one in self.filter_entries()} or {EXT_PROC_NAME}
        entries = (one for listener in self.listeners for one in listener.ext_procs())
        others = {one.at("name").text for one in entries} - own
        for holder in self.override_holders():
            for name, one in holder.at("typed_per_filter_config").entries():
                within = one.at("config")
                is_typed = EXT_PROC_PER_ROUTE in {one.type_name, within.type_name}
                if name in own or (is_typed and name not in others):
                    yield one
                    yield within

    def route_configs_of(self, listener: Listener) -> Iterator[Node]:
        """Yield the route configurations of a listener; a dump has them beside it, by name."""
        inline, name = listener.hcm.at("route_config"), listener.hcm.at("rds", "route_config_name")
        if inline.exists:
            yield inline
        yield from (
            one for one in self.route_configs if name.text and one.at("name").text == name.text
        )

    def override_holders(self) -> Iterator[Node]:
        """Yield the parts of route configurations that may have settings of filters."""
        for config in self.route_configs:
            yield config
            for host in config.at("virtual_hosts"):
                yield host
                for route in routes_of(host):
                    yield from (route, *route.at("route", "weighted_clusters", "clusters"))

    def asked_clusters(self) -> frozenset[str]:
        """Return the clusters that any ext_proc filter of a listener names."""
        entries = (settings_of(one) for each in self.listeners for one in each.ext_procs())
        names = (cluster_of(one) for one in (*entries, *self.loose_filters))
        return frozenset(name for name in names if name)

    def asks_egret(self, settings: Node) -> bool:
        """Return whether ext_proc settings name Egret's cluster, or none of Envoy's kind."""
        name = cluster_of(settings)
        return not name or name in self.egret

    def workers(self) -> Iterator[Cluster]:
        """Yield Egret's cluster."""
        for cluster in self.clusters:
            if cluster.name in self.egret:
                yield cluster

    def upstream_filters(self, cluster: Cluster) -> Iterator[Node]:
        """Yield the settings of the filters that a cluster's requests pass behind the router.

        Without filters of its own it has those of the routers.
        """
        yield from list(cluster.http_filters()) or self._router_filters

    @cached_property
    def _router_filters(self) -> tuple[Node, ...]:
        routers = (
            one.at("typed_config", "upstream_http_filters")
            for listener in self.listeners
            for one in listener.hcm.at("http_filters")
        )
        return tuple(one.at("typed_config") for each in routers for one in each)

    def virtual_hosts(self) -> Iterator[Node]:
        """Yield the virtual hosts of all route configurations."""
        for config in self.route_configs:
            yield from config.at("virtual_hosts")

    def routes(self) -> Iterator[Node]:
        """Yield the routes that go to an upstream, other than Envoy's own admin."""
        yield from self._routes

    @cached_property
    def _routes(self) -> tuple[Node, ...]:
        routes = (route for host in self.virtual_hosts() for route in routes_of(host))
        return tuple(one for one in routes if one.at("route").exists and not self.is_to_admin(one))

    def admin_routes(self) -> Iterator[Node]:
        """Yield the routes that may go to Envoy's own admin, alone or among others."""
        for host in self.virtual_hosts():
            for route in routes_of(host):
                if self.may_reach_admin(route):
                    yield route

    def may_reach_admin(self, route: Node) -> bool:
        """Return whether a route may go to Envoy's own admin, alone or among others."""
        return any(self._admin_ends(route))

    def is_to_admin(self, route: Node) -> bool:
        """Return whether a route leads to Envoy's own admin and nowhere else."""
        ends = self._admin_ends(route)
        return bool(ends) and all(ends)

    def _admin_ends(self, route: Node) -> list[bool]:
        """Return of each address that a route leads to whether it is the admin's."""
        named = {name for name in targets(route.at("route")) if name}
        return [end for name in named for end in self._ends_at_admin.get(name, ())]

    @cached_property
    def _ends_at_admin(self) -> dict[str, list[bool]]:
        """Of each address of each cluster, whether it is the admin's."""
        ends: dict[str, list[bool]] = {}
        if self.bootstrap is not None:
            admin = Endpoint(self.bootstrap.at("admin", "address"))
            for cluster in self.clusters:
                held = ends.setdefault(cluster.name, [])
                held += (end.is_same(admin) for end in cluster.endpoints())
        return ends

    def mirrors(self) -> Iterator[Cluster]:
        """Yield the clusters that receive copies of requests."""
        actions = (route.at("route") for route in self.routes())
        holders = (*self.route_configs, *self.virtual_hosts(), *actions)
        named = {
            one.at("cluster").text
            for holder in holders
            for one in holder.at("request_mirror_policies")
        }
        return (cluster for cluster in self.clusters if cluster.name in named)

    def providers(self) -> Iterator[Cluster]:
        """Yield the clusters that routes send requests to; of an aggregate, its members."""
        yield from self._providers

    @cached_property
    def _providers(self) -> tuple[Cluster, ...]:
        actions = [route.at("route") for route in self.routes()]
        named = {name for action in actions for name in targets(action)}
        plugins = [one.at("cluster_specifier_plugins") for one in self.route_configs]
        named |= {name for each in plugins for one in each for name in specified(one)}
        if any(map(is_open, actions)):
            named |= self._named_nowhere()
        named = _reached(named, {one.name: one.members for one in self.clusters}) - self.egret
        return tuple(one for one in self.clusters if one.name in named and not one.members)

    def reached(self) -> Iterator[Cluster]:
        """Yield the clusters that requests and their copies are sent to; of a patch, all."""
        if self.whole:
            yield from (*self.providers(), *self.mirrors(), *self.workers())
        else:
            yield from self.clusters

    def leading_to(self, names: set[str]) -> set[str]:
        """Return *names* and those of aggregates that have one of them as a member."""
        holders = {one.name: set[str]() for one in self.clusters}
        for one in self.clusters:
            for member in one.members & holders.keys():
                holders[member].add(one.name)
        return _reached(names, holders)

    def _named_nowhere(self) -> set[str]:
        """Return the names of the clusters that only a header or a plugin can choose."""
        found: set[str] = set()
        pending: list[JsonValue] = [one.value for one in (*self.route_configs, *self.elsewhere)]
        pending += [one.node.value for one in (*self.listeners, *self.tcp_listeners)]
        for name, one in self.bootstrap.entries() if self.bootstrap else ():
            parts = one.entries() if name == "static_resources" else ((name, one),)
            pending += [part.value for key, part in parts if key != "clusters"]
        while pending:
            match pending.pop():
                case dict() as fields:
                    pending += fields.values()
                case list() as items:
                    pending += items
                case str() as text:
                    found.add(text)
                case _:
                    pass
        return {cluster.name for cluster in self.clusters} - found


def _reached(names: set[str], ways: Mapping[str, AbstractSet[str]]) -> set[str]:
    """Return *names* and all that *ways* lead to from them."""
    found, pending = set(names), list(names)
    while pending:
        more = ways.get(pending.pop(), frozenset()) - found
        pending += more
        found |= more
    return found


def chains(config: EnvoyConfig) -> Iterator[tuple[Listener, list[Node], int]]:
    """Yield the filters of each listener that calls Egret, and the place of Egret's among them."""
    for listener in config.listeners:
        filters = list(listener.hcm.at("http_filters"))
        for index, one in enumerate(filters):
            typed = settings_of(one)
            if typed.type_name == EXT_PROC and config.asks_egret(typed):
                yield listener, filters, index


def filters_after(config: EnvoyConfig) -> Iterator[Node]:
    """Yield the filters behind Egret's."""
    for _, filters, own in chains(config):
        yield from filters[own + 1 :]


def settings_of(filter_: Node) -> Node:
    """Return the settings of a filter, or of the one that a matcher switches on and off."""
    typed = filter_.at("typed_config")
    inner = typed.at("extension_config", "typed_config")
    if typed.type_name != WITH_MATCHER or inner.type_name != COMPOSITE:
        return inner if typed.type_name == WITH_MATCHER else typed
    actions = (one for one in typed.at("xds_matcher").tree() if one.type_name == EXECUTE_FILTER)
    return next((one.at("typed_config", "typed_config") for one in actions), inner)


def tls_of(socket: Node) -> Node:
    """Return the TLS context of a transport socket, or of the one that it wraps, if it has one."""
    typed = socket.at("typed_config")
    while (wrapped := typed.at("transport_socket", "typed_config")).exists:
        typed = wrapped
    if typed.type_name == UPSTREAM_QUIC:
        return typed.at("upstream_tls_context")
    return typed if typed.type_name == UPSTREAM_TLS else typed.at("_none")


def cluster_of(settings: Node) -> str:
    """Return the cluster that ext_proc settings name; empty with another gRPC client."""
    return settings.at("grpc_service", "envoy_grpc", "cluster_name").text


def listeners_of(node: Node) -> Iterator[Listener]:
    """Yield a listener once for each HTTP connection manager in it."""
    for chain, typed in _network_filters(node):
        if typed.type_name == HCM:
            yield Listener(node, chain, typed)


def tcp_listeners_of(node: Node) -> Iterator[TcpListener]:
    """Yield a listener once for each TCP proxy in it."""
    for _, typed in _network_filters(node):
        if typed.type_name == TCP_PROXY:
            yield TcpListener(node, typed)


def _network_filters(listener: Node) -> Iterator[tuple[Node, Node]]:
    for chain in (*listener.at("filter_chains"), listener.at("default_filter_chain")):
        for one in chain.at("filters"):
            yield chain, one.at("typed_config")


def of_bootstrap(root: Node) -> EnvoyConfig:
    """Return the parts of a static configuration."""
    resources = root.at("static_resources")
    nodes = list(resources.at("listeners"))
    listeners = tuple(one for node in nodes for one in listeners_of(node))
    return EnvoyConfig(
        listeners=listeners,
        tcp_listeners=tuple(one for node in nodes for one in tcp_listeners_of(node)),
        clusters=tuple(Cluster(node) for node in resources.at("clusters")),
        route_configs=_inline_routes(listeners),
        bootstrap=root,
        place=root,
        envoy=_version_of(root),
        nodes=tuple(nodes),
    )


_DUMPED: Final = {
    "listener": ("ListenersConfigDump", ("static_listeners", "dynamic_listeners")),
    "cluster": ("ClustersConfigDump", ("static_clusters", "dynamic_active_clusters")),
    "route_config": ("RoutesConfigDump", ("static_route_configs", "dynamic_route_configs")),
}
"""The parts of a config dump by kind, with their places."""


def of_config_dump(root: Node) -> EnvoyConfig:
    """Return the parts of a `/config_dump`: static ones, and those of a control plane."""
    dumps = {one.type_name.rpartition(".")[2]: one for one in root.at("configs")}
    dumped = dumps.get("BootstrapConfigDump")
    bootstrap = None if dumped is None else dumped.at("bootstrap")
    nodes = list(_dumped(dumps, "listener"))
    listeners = tuple(one for node in nodes for one in listeners_of(node))
    return EnvoyConfig(
        listeners=listeners,
        tcp_listeners=tuple(one for node in nodes for one in tcp_listeners_of(node)),
        clusters=tuple(Cluster(node) for node in _dumped(dumps, "cluster")),
        # A dump repeats the routes that stand within a listener.
        route_configs=tuple(_dumped(dumps, "route_config")) or _inline_routes(listeners),
        bootstrap=bootstrap,
        place=root,
        envoy=None if bootstrap is None else _version_of(bootstrap),
        nodes=tuple(nodes),
    )


def _version_of(bootstrap: Node) -> EnvoyVersion | None:
    """Return the version that an Envoy writes into its node."""
    version = bootstrap.at("node", "user_agent_build_version", "version")
    major, minor = version.at("major_number").number, version.at("minor_number").number
    return EnvoyVersion(int(major), int(minor)) if major and minor else None


def _dumped(dumps: Mapping[str, Node], what: str) -> Iterator[Node]:
    kind, lists = _DUMPED[what]
    for name in lists:
        for one in dumps[kind].at(name) if kind in dumps else ():
            held = one.at("active_state", what) if name == "dynamic_listeners" else one.at(what)
            if held.exists:
                yield held


def _inline_routes(listeners: tuple[Listener, ...]) -> tuple[Node, ...]:
    configs = (listener.hcm.at("route_config") for listener in listeners)
    return tuple(config for config in configs if config.exists)
