"""Config dumps: of running Envoys, with the parts that a control plane sends."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import yaml
from egret_tools.envoy_lint.config import EXT_PROC
from egret_tools.envoy_lint.lint import lint

from tests.support.own_envoy import host_of, options_of, own_text, provider_of
from tests.unit.tools.envoy_lint.test_documents import OPEN, ids, unchecked


def _dump(**configs: Any) -> str:
    """Return a config dump of the configuration that fails open, with further parts."""
    resources = yaml.safe_load(OPEN)["static_resources"]
    kind = "type.googleapis.com/envoy.config."
    active = {"@type": f"{kind}listener.v3.Listener", **resources["listeners"][0]}
    listener = {"name": "l", "active_state": {"listener": active}}
    clusters = [
        {"cluster": {"@type": f"{kind}cluster.v3.Cluster", **one}} for one in resources["clusters"]
    ]
    parts = {
        "ListenersConfigDump": {"dynamic_listeners": [listener]},
        "ClustersConfigDump": {"dynamic_active_clusters": clusters},
        **configs,
    }
    kind = "type.googleapis.com/envoy.admin.v3."
    return json.dumps({"configs": [{"@type": kind + name, **one} for name, one in parts.items()]})


def test_a_filter_that_a_control_plane_sends_apart_is_judged_in_a_dump() -> None:
    """By the settings beside the listeners, which only name it."""
    whole = json.loads(_dump())
    (chain,) = whole["configs"][0]["dynamic_listeners"][0]["active_state"]["listener"][
        "filter_chains"
    ]
    (entry, *_) = chain["filters"][0]["typed_config"]["http_filters"]
    settings = entry.pop("typed_config")
    entry["config_discovery"] = {"config_source": {"ads": {}}, "type_urls": [settings["@type"]]}
    kind = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    sent = {"@type": kind, "name": entry["name"], "typed_config": settings}
    held = {"@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump"}
    whole["configs"].append({**held, "ecds_filters": [{"ecds_filter": sent}]})
    found = ids(lint("dump.json", json.dumps(whole)))
    assert "EGR101" in found
    assert "EGR501" not in found
    assert found == ids(lint("dump.json", _dump()))


def test_a_filter_that_is_sent_apart_is_not_said_to_be_missing() -> None:
    """A static configuration only names it, and it is named as not checked."""
    config = yaml.safe_load(OPEN)
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    (entry, *_) = chain["filters"][0]["typed_config"]["http_filters"]
    del entry["typed_config"]
    entry["config_discovery"] = {
        "config_source": {"ads": {}},
        "type_urls": [f"type.googleapis.com/{EXT_PROC}"],
    }
    linted = lint("e.yaml", yaml.safe_dump(config))
    assert "EGR501" not in ids(linted)
    assert unchecked(linted) == ["the settings of a filter that are discovered"]


def test_endpoints_of_a_running_envoy_are_not_held_to_limits() -> None:
    """Its dump has a weight of 0, which it would not take itself."""
    group = {"lb_endpoints": [], "load_balancing_weight": 0}
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    held = {"@type": kind, "cluster_name": "c", "endpoints": [group]}
    endpoints = {"endpoint_config": held}
    text = _dump(EndpointsConfigDump={"static_endpoint_configs": [endpoints]})
    assert "EGR001" not in ids(lint("dump.json", text))


def _steps(routes: int) -> int:
    """Return the calls that a configuration with so many routes and clusters takes."""
    config = yaml.safe_load(own_text())
    for number in range(routes):
        cluster = copy.deepcopy(provider_of(config)) | {"name": f"c{number}"}
        options_of(cluster).pop("http_filters")
        config["static_resources"]["clusters"].append(cluster)
        route = copy.deepcopy(host_of(config)["routes"][-1])
        route["route"]["cluster"] = f"c{number}"
        host_of(config)["routes"].insert(0, route)
    text, calls = json.dumps(config), 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        lint("e.json", text)
    finally:
        sys.setprofile(None)
    return calls


def test_work_grows_as_the_configuration_does() -> None:
    """A gateway of a mesh has thousands of clusters and routes."""
    _steps(1)  # reads Envoy's messages, once
    assert _steps(120) - _steps(60) < 2.5 * (_steps(60) - _steps(30))
