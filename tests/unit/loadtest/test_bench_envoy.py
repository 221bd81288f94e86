from __future__ import annotations

import json
from typing import Any

from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config

from loadtest.bench_envoy import (
    STREAMED,
    bench_config,
    provider_config,
    shipped_config,
    socket_address,
)

PARAMETERS = EnvoyParameters(
    worker_sockets=("/s/a.sock",), sds_directory="/sds", http_port=0, access_log_path="/dev/null"
)


def configured() -> dict[str, Any]:
    sockets = {"one": ("/s/a.sock", "/s/b.sock"), "two": ("/s/c.sock",)}
    resources: dict[str, Any] = json.loads(
        bench_config(PARAMETERS, sockets=sockets, provider=socket_address("/s/p.sock"))
    )["static_resources"]
    return resources


def manager(listener: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return config


def filter_names(listener: dict[str, Any]) -> list[str]:
    return [one["name"] for one in manager(listener)["http_filters"]]


def test_listeners_differ_only_in_egret() -> None:
    """Else the difference between them would be more than what Egret adds."""
    listeners = {one["name"]: one for one in configured()["listeners"]}
    bare, one = manager(listeners["envoy"]), manager(listeners["one"])
    assert [*bare["http_filters"]] == [*one["http_filters"][2:]]
    assert filter_names(listeners["one"])[:2] == [
        "envoy.filters.http.set_filter_state",
        "envoy.filters.http.ext_proc",
    ]
    assert [*bare["access_log"]] == [*one["access_log"][:1]]
    for config in (bare, one):
        del config["http_filters"], config["stat_prefix"], config["access_log"]
    assert bare == one


def test_every_engine_is_told_what_was_used() -> None:
    """By the same workers that judged it; else recording it would cost them nothing here."""
    told = {
        listener["name"]: one["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
        for listener in configured()["listeners"]
        for one in manager(listener).get("access_log", ())
        if one["name"].endswith("open_telemetry")
    }
    assert told == {"one": "one", "two": "two"}


def test_every_engine_has_a_cluster_of_its_own_workers() -> None:
    """A listener asks its own engine and no other."""
    resources = configured()
    clusters = {one["name"]: one for one in resources["clusters"]}
    asked = {
        listener["name"]: one["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
        for listener in resources["listeners"]
        for one in manager(listener)["http_filters"]
        if one["name"].endswith("ext_proc")
    }
    assert asked == {"one": "one", "two": "two"}
    endpoints = clusters["one"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    paths = [one["endpoint"]["address"]["pipe"]["path"] for one in endpoints]
    assert paths == ["/s/a.sock", "/s/b.sock"]
    assert clusters["one"]["health_checks"]


def test_another_provider_is_spoken_to_in_the_place_of_envoy() -> None:
    """Over the protocol that a simple server knows."""
    config = bench_config(
        PARAMETERS,
        sockets={"one": ("/s/a.sock",)},
        provider=socket_address("/s/p.sock"),
        answers=False,
    )
    resources = json.loads(config)["static_resources"]
    assert "provider" not in {one["name"] for one in resources["listeners"]}
    openai = next(one for one in resources["clusters"] if one["name"] == "openai")
    (protocol,) = openai["typed_extension_protocol_options"].values()
    assert protocol["explicit_http_config"] == {"http_protocol_options": {}}


def test_the_provider_waits_for_the_body() -> None:
    """A direct response without the buffer filter would leave before it, and close."""
    provider = next(one for one in configured()["listeners"] if one["name"] == "provider")
    assert filter_names(provider) == ["envoy.filters.http.buffer", "envoy.filters.http.router"]


def test_a_shipped_configuration_keeps_all_but_tls_and_the_provider() -> None:
    """Without Egret it has neither its filters nor its cluster."""
    text, provider = render_envoy_config(PARAMETERS), socket_address("/s/p.sock")
    whole, bare = (
        json.loads(shipped_config(text, provider=provider, is_bare=is_bare))["static_resources"]
        for is_bare in (False, True)
    )
    assert [one["name"] for one in whole["listeners"]] == ["http"]
    assert "envoy.filters.http.ext_proc" in filter_names(whole["listeners"][0])
    assert "envoy.filters.http.ext_proc" not in filter_names(bare["listeners"][0])
    assert {one["name"] for one in whole["clusters"]} == {"egret", "openai", "anthropic"}
    assert {one["name"] for one in bare["clusters"]} == {"openai", "anthropic"}


def test_a_streaming_provider_is_chosen_by_a_header() -> None:
    """All other requests are answered at once."""
    config = provider_config(socket_address("/s/p.sock"), streams=socket_address("/s/s.sock"))
    (listener,) = json.loads(config)["static_resources"]["listeners"]
    streamed, direct = manager(listener)["route_config"]["virtual_hosts"][0]["routes"]
    assert streamed["match"]["headers"] == [{"name": STREAMED, "present_match": True}]
    assert "direct_response" in direct
