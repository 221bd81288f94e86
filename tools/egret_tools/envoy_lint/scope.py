"""What the rules on a whole configuration apply to: what is reached through Egret, or should be.

An Envoy serves more than models: a website's listener is nobody's mistake.
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from egret_tools.envoy_lint.config import EnvoyConfig, Listener, TcpListener, settings_of
from egret_tools.envoy_lint.routing import is_open, routes_of, targets
from egret_tools.envoy_lint.source import Node

_PROVIDERS: Final = re.compile(
    r"(.+[.])?api[.](openai|anthropic|groq|deepseek|fireworks|cohere)[.]com"
    r"|(.+[.])?api[.](mistral|perplexity|cerebras|fireworks|together|cohere|x)[.]ai"
    r"|openrouter[.]ai|api[.]together[.]xyz"
    r"|.+[.](openai|cognitiveservices|services[.]ai|models[.]ai)[.]azure[.]com"
    r"|(.+[.-])?(generativelanguage|aiplatform)[.]googleapis[.]com"
    r"|bedrock[a-z-]*[.].+[.]amazonaws[.]com([.]cn)?"
)
"""Hosts of providers' APIs."""


def asks(config: EnvoyConfig, listener: Listener) -> bool:
    """Return whether a listener asks Egret; a patch of one without filters may be of that one."""
    is_patch = not config.whole and not any(True for _ in listener.hcm.at("http_filters"))
    asking = (config.asks_egret(settings_of(one)) for one in listener.ext_procs())
    return is_patch or any(asking)


def leads_to(config: EnvoyConfig, listener: Listener, clusters: AbstractSet[str]) -> bool:
    """Return whether a listener has a route to one of *clusters*, or one that a header names."""
    actions = [one.at("route") for one in _routes(config, listener)]
    return any(is_open(one) or not clusters.isdisjoint(targets(one)) for one in actions)


def scoped(config: EnvoyConfig) -> EnvoyConfig:
    """Leave out the listeners, and their routes, that lead neither to Egret nor to a provider.

    One that leads to Envoy's own admin stays.
    """
    asking = tuple(one for one in config.listeners if _may_ask(config, one))
    through = replace(config, listeners=asking, tcp_listeners=(), route_configs=tuple(
        held for one in asking for held in config.route_configs_of(one)
    ))  # fmt: skip
    names = {one.name for one in through.providers()} - config.egret
    names = config.leading_to(names | _of_providers(config))

    def stays(one: Listener | TcpListener) -> bool:
        if isinstance(one, TcpListener):
            return not names.isdisjoint(targets(one.proxy))
        is_admin = any(map(config.may_reach_admin, _routes(config, one)))
        return one in asking or is_admin or leads_to(config, one, names)

    listeners = tuple(filter(stays, config.listeners))
    tcp_listeners = tuple(filter(stays, config.tcp_listeners))
    kept = {one.node.path for one in listeners} | {one.node.path for one in tcp_listeners}
    # A dump repeats the routes that stand within a listener, at another place.
    routes = [held.at("virtual_hosts").value
              for one in listeners for held in config.route_configs_of(one)]  # fmt: skip
    dropped = [held.at("virtual_hosts").value
               for one in config.listeners if one not in listeners
               for held in config.route_configs_of(one)]  # fmt: skip
    dropped = [one for one in dropped if one not in routes]
    is_dropped = [one.at("virtual_hosts").value in dropped for one in config.route_configs]
    return replace(
        config,
        listeners=listeners,
        tcp_listeners=tcp_listeners,
        route_configs=tuple(
            one for one, is_out in zip(config.route_configs, is_dropped, strict=True) if not is_out
        ),
        elsewhere=(
            *(one for one in config.nodes if one.path not in kept),
            *(one for one, is_out in zip(config.route_configs, is_dropped, strict=True) if is_out),
        ),
    )


def _may_ask(config: EnvoyConfig, listener: Listener) -> bool:
    """Return whether it asks Egret, or has a filter that is discovered and may be Egret's."""
    filters = listener.hcm.at("http_filters")
    return asks(config, listener) or any(one.at("config_discovery").exists for one in filters)


def _routes(config: EnvoyConfig, listener: Listener) -> list[Node]:
    hosts = (host for one in config.route_configs_of(listener) for host in one.at("virtual_hosts"))
    return [route for host in hosts for route in routes_of(host)]


def _of_providers(config: EnvoyConfig) -> set[str]:
    """Return the clusters that name the host of a provider."""
    return {
        cluster.name
        for cluster in config.clusters
        for host in (
            cluster.tls.at("sni"),
            *(one.address.at("socket_address", "address") for one in cluster.endpoints()),
        )
        if _PROVIDERS.fullmatch(host.text.lower())
    }
