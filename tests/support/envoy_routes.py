"""Routes by model, by a policy's choice, by a header, and to aggregates, right and wrong."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from tests.support.own_envoy import EXAMPLES, Config, Mistake, hcm_of, host_of, provider_of
from tests.support.ways_around_egret import with_an_open_listener


def open_by_header(config: Config) -> None:
    """Let a header choose the cluster of requests to a listener without Egret."""
    with_an_open_listener(config)
    chain = config["static_resources"]["listeners"][-1]["filter_chains"][0]
    (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    del host["routes"][0]["route"]["weighted_clusters"]
    host["routes"][0]["route"]["cluster_header"] = "x-cluster"


def in_an_aggregate(member: Mistake | None = None) -> Mistake:
    """Return routes to a cluster of two providers, with a mistake in one of those, if any."""

    def mistake(config: Config) -> None:
        kind = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
        whole = {"@type": kind, "clusters": ["openai", "anthropic"]}
        config["static_resources"]["clusters"].append({
            "name": "any",
            "connect_timeout": "1s",
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": whole},
        })  # fmt: skip
        for route in host_of(config)["routes"]:
            if "cluster" in route.get("route", {}):
                route["route"]["cluster"] = "any"
        if member is not None:
            member(config)

    return mistake


def chosen_by_header(member: Mistake) -> Mistake:
    """Return a mistake in a provider that only a header of Egret's own can choose."""

    def mistake(config: Config) -> None:
        by_cluster_header({"remove": "x-cluster"})(config)
        for route in host_of(config)["routes"]:
            if "cluster" in route.get("route", {}):
                del route["route"]["cluster"]
                route["route"]["cluster_header"] = "x-cluster"
        member(config)

    return mistake


def with_copies_in_the_clear(config: Config) -> None:
    """Send copies of requests to a cluster without TLS."""
    address = {"socket_address": {"address": "copies.example", "port_value": 80}}
    config["static_resources"]["clusters"].append(
        {
            "name": "copies",
            "type": "STRICT_DNS",
            "load_assignment": {
                "cluster_name": "copies",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }
    )
    host_of(config)["request_mirror_policies"] = [{"cluster": "copies"}]


def by_model(*mistakes: Mistake) -> Mistake:
    """Return mistakes in a configuration in which a route goes by the model, rightly."""
    kind = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3"

    def mistake(config: Config) -> None:
        typed = {"@type": f"{kind}.HeaderMutation", "mutations": [{"remove": "x-egret-model"}]}
        name = "envoy.http.early_header_mutation.header_mutation"
        hcm_of(config)[EARLY] = [{"name": name, "typed_config": typed}]
        route = copy.deepcopy(host_of(config)["routes"][-1])
        named = {"name": "x-egret-model", "string_match": {"prefix": "gpt-"}}
        route["match"] = {"prefix": "/", "headers": [named]}
        host_of(config)["routes"].insert(0, route)
        for one in mistakes:
            one(config)

    return mistake


def _matched(name: str, *, invert: bool = False, **value: Any) -> Config:
    """Return a matcher of one name of Egret's metadata."""
    path = [{"key": f"provider_{name}"}]
    matched = {"filter": "egret", "path": path, "value": value or {"present_match": True}}
    return matched | ({"invert": True} if invert else {})


def by_choice(*, refused: str = "/", excludes: bool = True) -> Mistake:
    """Return a route by the provider's region, and a refusal of others below a path.

    There is a mistake in it unless every other region is refused, and other names are excluded.
    """

    def mistake(config: Config) -> None:
        route = copy.deepcopy(host_of(config)["routes"][-1])
        chosen = [_matched("region", string_match={"exact": "eu"})]
        if excludes:
            chosen += [_matched(name, invert=True) for name in ("credential", "order")]
        route["match"] = {"prefix": "/", "dynamic_metadata": chosen}
        match = {"prefix": refused, "dynamic_metadata": [_matched("region")]}
        refusal = {"match": match, "direct_response": {"status": 503}}
        host_of(config)["routes"][:0] = [route, refusal]

    return mistake


def by_cluster_header(*early: Config, name: str = "X-Cluster") -> Mistake:
    """Return a route to the cluster that a header names, with mutations before the first route."""

    def mistake(config: Config) -> None:
        by_model()(config)
        hcm_of(config)[EARLY][0]["typed_config"]["mutations"] += early
        route = host_of(config)["routes"][0]
        route["match"] = {"prefix": "/"}
        del route["route"]["cluster"]
        route["route"]["cluster_header"] = name

    return mistake


def with_a_share_by_header(config: Config) -> None:
    """Lead a share of requests to the cluster that a header names."""
    action = host_of(config)["routes"][-1]["route"]
    shares = [{"name": action.pop("cluster"), "weight": 1}]
    action["weighted_clusters"] = {"clusters": [*shares, {"cluster_header": "x-b", "weight": 1}]}


def with_copies_by_header(config: Config) -> None:
    """Send copies of requests to the cluster that a header names."""
    host_of(config)["request_mirror_policies"] = [{"cluster_header": "x-copies"}]


def with_providers_by_policy(config: Config) -> None:
    """Add the routes of the example and its clusters, which have no mistake."""
    own = provider_of(config)
    config["static_resources"]["clusters"] += [
        copy.deepcopy(own) | {"name": f"openai_{one}"} for one in ("search", "eu", "reserved")
    ]
    text = (EXAMPLES / "providers-by-policy" / "routes.yaml").read_text(encoding="utf-8")
    host_of(config)["routes"][:0] = yaml.safe_load(text)


EARLY = "early_header_mutation_extensions"
