"""Our own Envoy configuration, as it is shipped and with changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config

from sidecar.policy.yaml_positions import write_yaml

Config = dict[str, Any]

Mistake = Callable[[Config], None]

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"

DUPLEX: Final = "FULL_DUPLEX_STREAMED"


def own_text() -> str:
    """Return the configuration that Egret ships, for production."""
    parameters = EnvoyParameters(
        worker_sockets=("/run/egret/w-0.sock", "/run/egret/w-1.sock"),
        sds_directory="/etc/egret/sds",
        admin_socket="/run/admin.sock",
        metrics_port=9465,
    )
    return render_envoy_config(parameters)


def with_mistake(mistake: Mistake) -> str:
    """Return it with one mistake."""
    config = copy.deepcopy(_OWN)
    mistake(config)
    return write_yaml(config)


def for_version(minor: int, mistake: Mistake | None = None) -> str:
    """Return it as Envoy 1.*minor* takes it, which sends every body; with a mistake, if any."""
    config = copy.deepcopy(_OWN)
    sends_every_body(config)
    version = {"major_number": 1, "minor_number": minor}
    config["node"]["user_agent_build_version"] = {"version": version}
    hcm = hcm_of(config)
    hcm["http_filters"] = [one for one in hcm["http_filters"] if "ai_protocol" not in one["name"]]
    hcm["access_log"] = [one for one in hcm["access_log"] if "open_telemetry" not in one["name"]]
    for holder in (host_of(config), *host_of(config)["routes"]):
        holder.pop("typed_per_filter_config", None)
    if minor < 38:
        del ext_proc_of(config)["allow_content_length_header"]
    if mistake is not None:
        mistake(config)
    return write_yaml(config)


def other_modes(config: Config, modes: dict[str, str]) -> None:
    """Change the processing mode of Egret's filter."""
    ext_proc_of(config)["processing_mode"].update(modes)


def sends_every_body(config: Config) -> None:
    """Send Egret every body, as an older Envoy has to."""
    ext_proc_of(config)["processing_mode"].update(
        request_body_mode=DUPLEX, request_trailer_mode="SEND", response_trailer_mode="SEND"
    )
    for route in host_of(config)["routes"]:
        route.get("route", {}).pop("retry_policy", None)


_OWN: Final[Config] = yaml.safe_load(own_text())


def listener_of(config: Config) -> Any:
    """Return the listener of clients."""
    return config["static_resources"]["listeners"][0]


def hcm_of(config: Config) -> Any:
    """Return its HTTP connection manager."""
    return listener_of(config)["filter_chains"][0]["filters"][0]["typed_config"]


def is_ext_proc(filter_: Any) -> bool:
    """Return whether a filter is ext_proc."""
    return bool(filter_["name"] == "envoy.filters.http.ext_proc")


def ext_proc_filter_of(config: Config) -> Any:
    """Return the entry of Egret's filter."""
    return next(filter(is_ext_proc, hcm_of(config)["http_filters"]))


def ext_proc_of(config: Config) -> Any:
    """Return the settings of Egret's filter."""
    return ext_proc_filter_of(config)["typed_config"]


def cluster_of(config: Config, name: str) -> Any:
    """Return a cluster by its name."""
    return next(one for one in config["static_resources"]["clusters"] if one["name"] == name)


def provider_of(config: Config) -> Any:
    """Return the cluster of a provider."""
    return cluster_of(config, "openai")


def options_of(cluster: Any) -> Any:
    """Return the HTTP options of a cluster."""
    return next(iter(cluster["typed_extension_protocol_options"].values()))


def host_of(config: Config) -> Any:
    """Return the virtual host of clients."""
    return hcm_of(config)["route_config"]["virtual_hosts"][0]


def route_of(config: Config) -> Any:
    """Return the action of the last route."""
    return host_of(config)["routes"][-1]["route"]


def per_route(config: Config, value: Config) -> None:
    """Put settings of ext_proc on the virtual host."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
    host_of(config)["typed_per_filter_config"] = {
        "envoy.filters.http.ext_proc": {"@type": kind, **value}
    }


def beside(other: Config) -> Mistake:
    """Return a change that has Egret's Envoy serve another configuration as well."""

    def serve(config: Config) -> None:
        for kind, parts in copy.deepcopy(other["static_resources"]).items():
            config["static_resources"].setdefault(kind, []).extend(parts)

    return serve


FILTERS: Final = "type.googleapis.com/envoy.extensions.filters.http"


def with_filter(name: str, place: int, settings: Config) -> Mistake:
    """Return a mistake that puts a filter before Egret's (0), or behind it (-1)."""

    def mistake(config: Config) -> None:
        one = {"name": name, "typed_config": settings}
        hcm_of(config)["http_filters"].insert(place, one)

    return mistake


def processor(**modes: str) -> Config:
    """Return another processor than Egret, with these modes."""
    trailers = {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}
    return {
        "@type": f"{FILTERS}.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "other"}},
        "processing_mode": {**trailers, **modes},
    }
