from __future__ import annotations

import json
import re
from textwrap import dedent
from typing import Any, Final

import yaml
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config

from loadtest.bench_envoy import (
    STREAMED,
    provider_config,
    provider_listener,
    shipped_config,
    socket_address,
)
from tests.support.documented_commands import DOCS

YAML_BLOCK: Final = re.compile(r" *```yaml\n(.*?)```", re.DOTALL)
PARAMETERS = EnvoyParameters(
    worker_sockets=("/s/a.sock",), sds_directory="/sds", http_port=0, access_log_path="/dev/null"
)


def manager(listener: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return config


def filter_names(listener: dict[str, Any]) -> list[str]:
    return [one["name"] for one in manager(listener)["http_filters"]]


def shipped(
    *, is_bare: bool = False, over_http1: bool = False, session_header: str = ""
) -> dict[str, Any]:
    config = shipped_config(
        render_envoy_config(PARAMETERS),
        provider=socket_address("/s/p.sock"),
        is_bare=is_bare,
        over_http1=over_http1,
        session_header=session_header,
    )
    resources: dict[str, Any] = json.loads(config)["static_resources"]
    return resources


def test_listeners_differ_only_in_egret() -> None:
    """Any other difference would be counted as a cost of Egret."""
    (whole,), (bare,) = (shipped(is_bare=is_bare)["listeners"] for is_bare in (False, True))
    with_egret, without = manager(whole), manager(bare)
    assert without["http_filters"] == with_egret["http_filters"][2:]
    assert filter_names(whole)[:2] == [
        "envoy.filters.http.set_filter_state",
        "envoy.filters.http.ext_proc",
    ]
    assert without["access_log"] == with_egret["access_log"][:1]
    for config in (with_egret, without):
        del config["http_filters"], config["stat_prefix"], config["access_log"]
    assert with_egret == without


def test_a_shipped_configuration_keeps_the_workers_and_the_usage_log() -> None:
    """With their health checks; the Envoy without Egret has no cluster for it."""
    clusters = {one["name"]: one for one in shipped()["clusters"]}
    assert set(clusters) == {"egret", "openai", "anthropic"}
    assert clusters["egret"]["health_checks"]
    (listener,) = shipped()["listeners"]
    assert any(one["name"].endswith("open_telemetry") for one in manager(listener)["access_log"])
    assert {one["name"] for one in shipped(is_bare=True)["clusters"]} == {"openai", "anthropic"}


def test_another_provider_is_spoken_to_over_http1() -> None:
    """Simple servers have no HTTP/2."""
    openai = next(one for one in shipped(over_http1=True)["clusters"] if one["name"] == "openai")
    (protocol,) = openai["typed_extension_protocol_options"].values()
    assert protocol["explicit_http_config"] == {"http_protocol_options": {}}


def test_the_provider_waits_for_the_body() -> None:
    """A direct response without the buffer filter would leave before it, and close."""
    listener = provider_listener(socket_address("/s/p.sock"))
    assert filter_names(listener) == ["envoy.filters.http.buffer", "envoy.filters.http.router"]


def test_a_streaming_provider_is_chosen_by_a_header() -> None:
    """All other requests are answered at once."""
    config = provider_config(socket_address("/s/p.sock"), streams=socket_address("/s/s.sock"))
    (listener,) = json.loads(config)["static_resources"]["listeners"]
    streamed, direct = manager(listener)["route_config"]["virtual_hosts"][0]["routes"]
    assert streamed["match"]["headers"] == [{"name": STREAMED, "present_match": True}]
    assert "direct_response" in direct


def test_sessions_are_sent_to_workers_as_the_page_says() -> None:
    section = (DOCS / "envoy.md").read_text(encoding="utf-8").partition("### Sessions")[2]
    metadata, balancing = [yaml.safe_load(dedent(one)) for one in YAML_BLOCK.findall(section)[:2]]
    resources = shipped(session_header="x-session-id")
    (listener,) = resources["listeners"]
    (cluster,) = [one for one in resources["clusters"] if one["name"] == "egret"]
    service = manager(listener)["http_filters"][1]["typed_config"]["grpc_service"]
    assert service["initial_metadata"] == metadata["initial_metadata"]
    assert cluster["load_balancing_policy"] == balancing["load_balancing_policy"]
    assert "lb_policy" not in cluster
