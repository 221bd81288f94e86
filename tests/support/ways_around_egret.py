"""Ways around Egret that Envoy takes: requests pass unchecked, or its metadata is forged."""

from __future__ import annotations

import copy
from typing import Any, Final

from tests.support.own_envoy import (
    FILTERS,
    Config,
    Mistake,
    ext_proc_filter_of,
    hcm_of,
    host_of,
    is_ext_proc,
    listener_of,
    options_of,
    per_route,
    processor,
    provider_of,
    with_filter,
)

_CHOSEN: Final[Config] = {"metadata_namespace": "egret", "key": "provider_credential"}

HEADER_TO_METADATA: Final[Config] = {
    "@type": f"{FILTERS}.header_to_metadata.v3.Config",
    "request_rules": [{"header": "x-credential", "on_header_present": _CHOSEN}],
}

_FORGING: Final[Config] = {
    **processor(request_body_mode="NONE"),
    "metadata_options": {"receiving_namespaces": {"untyped": ["egret"]}},
}


def _forged_on_a_route(config: Config) -> None:
    filter_ = {"@type": HEADER_TO_METADATA["@type"]}
    hcm_of(config)["http_filters"].insert(0, {"name": "by header", "typed_config": filter_})
    host_of(config)["routes"][0]["typed_per_filter_config"] = {"by header": HEADER_TO_METADATA}


FORGED: Final[dict[str, Mistake]] = {
    "header after": with_filter("by header", -1, HEADER_TO_METADATA),
    "body": with_filter("by body", -1, {
        "@type": f"{FILTERS}.json_to_metadata.v3.JsonToMetadata",
        "request_rules": {"rules": [{"selectors": [{"key": "user"}], "on_present": _CHOSEN}]},
    }),
    "fixed": with_filter("fixed", -1, {
        "@type": f"{FILTERS}.set_metadata.v3.Config",
        "metadata": [{"metadata_namespace": "egret", "value": {"provider_region": "eu"}}],
    }),
    "route": _forged_on_a_route,
    "lua": with_filter("lua", 0, {
        "@type": f"{FILTERS}.lua.v3.Lua",
        "default_source_code": {"inline_string": (
            "function envoy_on_request(handle)\n"
            "  local data = handle:streamInfo():dynamicMetadata()\n"
            "  data:set('egret', 'provider_region', handle:headers():get('x-region'))\n"
            "end\n"
        )},
    }),
    "processor": with_filter("second", -1, _FORGING),
    "upstream": lambda config: options_of(provider_of(config))["http_filters"].insert(
        0, {"name": "second", "typed_config": _FORGING}
    ),
}  # fmt: skip
"""Further filters that write to Egret's metadata."""


def with_an_open_listener(config: Config) -> None:
    """Add a listener that leads a share of its requests to a provider, without Egret."""
    one = copy.deepcopy(listener_of(config))
    one["name"], one["address"]["socket_address"]["port_value"] = "open", 8444
    manager = one["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [each for each in manager["http_filters"] if not is_ext_proc(each)]
    (host,) = manager["route_config"]["virtual_hosts"]
    host["routes"] = [host["routes"][-1]]
    action = host["routes"][0]["route"]
    action["weighted_clusters"] = {"clusters": [{"name": action.pop("cluster"), "weight": 1}]}
    config["static_resources"]["listeners"].append(one)


def with_a_tcp_listener(action: Config, **listener: Any) -> Mistake:
    """Return a listener that forwards connections, without HTTP."""

    def mistake(config: Config) -> None:
        kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
        typed = {"@type": kind, "stat_prefix": "tcp", **action}
        filters = [{"name": "envoy.filters.network.tcp_proxy", "typed_config": typed}]
        address = {"socket_address": {"address": "127.0.0.1", "port_value": 9444}}
        place = listener or {"address": address}
        one = {"name": "tcp", **place, "filter_chains": [{"filters": filters}]}
        config["static_resources"]["listeners"].append(one)

    return mistake


TCP: Final[dict[str, Mistake]] = {
    "cluster": with_a_tcp_listener({"cluster": "openai"}),
    "share": with_a_tcp_listener(
        {"weighted_clusters": {"clusters": [{"name": "openai", "weight": 1}]}}
    ),
}
"""Listeners of TCP that lead to a provider."""

OFF: Final[Config] = {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
    "disabled": True,
}

_SWITCH: Final = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def _off_in_a_weighted_cluster(config: Config) -> None:
    action = host_of(config)["routes"][-1]["route"]
    share = {"name": action.pop("cluster"), "weight": 1}
    share["typed_per_filter_config"] = {"envoy.filters.http.ext_proc": OFF}
    action["weighted_clusters"] = {"clusters": [share]}


def _off_by_a_switch_for_the_filters_own_name(config: Config) -> None:
    ext_proc_filter_of(config)["name"] = "egret"
    switch = {"@type": _SWITCH, "disabled": True}
    host_of(config)["routes"][0]["typed_per_filter_config"] = {"egret": switch}


def _off_in_the_route_configuration(config: Config) -> None:
    override = {"envoy.filters.http.ext_proc": OFF}
    hcm_of(config)["route_config"]["typed_per_filter_config"] = override


def _off_within_a_filter_config(config: Config) -> None:
    host_of(config)["typed_per_filter_config"] = {
        "envoy.filters.http.ext_proc": {"@type": _SWITCH, "config": OFF}
    }


UNGUARDED: Final[tuple[Mistake, ...]] = (
    _off_in_a_weighted_cluster,
    _off_by_a_switch_for_the_filters_own_name,
    _off_in_the_route_configuration,
    _off_within_a_filter_config,
)
"""Further forms of EGR123's override: with each, Envoy lets requests without a key pass."""


def off_by_a_mode(config: Config) -> None:
    """Send Egret nothing of the requests on a route, and believe nothing that it answers."""
    modes = {"request_header_mode": "SKIP", "request_body_mode": "STREAMED"}
    other = {"receiving_namespaces": {"untyped": ["other"]}}
    per_route(config, {"overrides": {"processing_mode": modes, "metadata_options": other}})


def off_in_a_matcher(config: Config) -> None:
    """Choose the route of requests by a tree of matchers, and switch Egret off on it."""
    routes = host_of(config).pop("routes")
    route = {
        "@type": "type.googleapis.com/envoy.config.route.v3.Route",
        **routes[-1],
        "match": {"prefix": "/"},
        "typed_per_filter_config": {"envoy.filters.http.ext_proc": OFF},
    }
    kind = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    path = {"name": "path", "typed_config": {"@type": kind, "header_name": ":path"}}
    action = {"action": {"name": "route", "typed_config": route}}
    tree = {"input": path, "prefix_match_map": {"map": {"/": action}}}
    host_of(config)["matcher"] = {"matcher_tree": tree}
