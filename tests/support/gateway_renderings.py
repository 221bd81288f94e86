"""Envoy as other gateways configure it from our examples: the filters of requests, and the log.

Sources, read in November 2026: Envoy Gateway's expected configurations (envoyproxy/gateway,
internal/xds/translator/testdata/out/xds-ir, `ext-proc.listeners.yaml` and
`accesslog.listeners.yaml`), Istio's reference of EnvoyFilter and of MeshConfig's extension
providers. Providers' clusters stay ours: they belong to the user.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.second_gateway import Config, connection_managers

GATEWAYS: Final = Path(__file__).resolve().parents[2] / "deploy" / "gateways"
TYPES: Final = "type.googleapis.com/envoy"
_MODES: Final = {"FullDuplexStreamed": "FULL_DUPLEX_STREAMED", "Buffered": "BUFFERED"}


def resource(gateway: str, file: str, kind: str) -> dict[str, Any]:
    """Return the resource of this kind in an example."""
    text = (GATEWAYS / gateway / file).read_text(encoding="utf-8")
    found: dict[str, Any] = next(one for one in yaml.safe_load_all(text) if one["kind"] == kind)
    return found


def as_envoy_gateway(config: Config) -> None:
    """Render the example's EnvoyExtensionPolicy: off in the listener, on in each route."""
    policy = resource("envoy-gateway", "standalone.yaml", "EnvoyExtensionPolicy")
    (wanted,) = policy["spec"]["extProc"]
    mode, cluster = wanted["processingMode"], "envoyextensionpolicy/llm/egret/0/egret"
    name = "envoy.filters.http.ext_proc/envoyextensionpolicy/llm/egret/extproc/0"
    settings = {
        "@type": f"{TYPES}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {
            "envoy_grpc": {"authority": "egret.llm:50051", "cluster_name": cluster},
            "timeout": "10s",
            "retry_policy": {"num_retries": wanted["backendSettings"]["retry"]["numRetries"]},
        },
        "message_timeout": wanted["messageTimeout"],
        "metadata_options": {
            "receiving_namespaces": {"untyped": wanted["metadata"]["writableNamespaces"]}
        },
        "request_attributes": mode["request"]["attributes"],
        "processing_mode": {
            "request_header_mode": "SEND",
            "request_body_mode": _MODES[mode["request"]["body"]],
            "request_trailer_mode": "SEND",
            "response_header_mode": "SEND",
            "response_body_mode": _MODES[mode["response"]["body"]],
            "response_trailer_mode": "SEND",
        },
    }
    for manager in connection_managers(config):
        _replace_filters(manager, {"name": name, "disabled": True, "typed_config": settings})
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                route["typed_per_filter_config"] = {
                    name: {"@type": f"{TYPES}.config.route.v3.FilterConfig", "config": {}}
                }
    _rename_cluster(config, cluster)


def as_istio(config: Config) -> None:
    """Insert the filter of the example before the router."""
    example = resource("istio", "envoy-filter.yaml", "EnvoyFilter")
    value = example["spec"]["configPatches"][0]["patch"]["value"]
    for manager in connection_managers(config):
        _replace_filters(manager, value)
    cluster = value["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    _rename_cluster(config, cluster)


def with_access_log_of_envoy_gateway(config: Config) -> None:
    """Send the log of the example's EnvoyProxy, with the filter of its `matches`."""
    proxy = resource("envoy-gateway", "usage.yaml", "EnvoyProxy")
    (wanted,) = proxy["spec"]["telemetry"]["accessLog"]["settings"]
    (match,) = wanted["matches"]
    for manager in connection_managers(config):
        manager["access_log"] = [
            {
                "name": "envoy.access_loggers.open_telemetry",
                "filter": {
                    "extension_filter": {
                        "name": "envoy.access_loggers.extension_filters.cel",
                        "typed_config": {
                            "@type": f"{TYPES}.extensions.access_loggers.filters.cel.v3"
                            ".ExpressionFilter",
                            "expression": match,
                        },
                    }
                },
                "typed_config": {
                    "@type": f"{TYPES}.extensions.access_loggers.open_telemetry.v3"
                    ".OpenTelemetryAccessLogConfig",
                    "body": {"string_value": wanted["format"]["text"]},
                    "common_config": {
                        "grpc_service": {
                            "envoy_grpc": {
                                "authority": "egret.llm:50051",
                                "cluster_name": "envoyextensionpolicy/llm/egret/0/egret",
                            }
                        },
                        "log_name": "otel_envoy_accesslog",
                        "transport_api_version": "V3",
                    },
                },
            }
        ]


def _replace_filters(manager: Config, ext_proc: dict[str, Any]) -> None:
    """Leave nothing of our own chain but the router, and the filter under test before it."""
    (router,) = (
        one for one in manager["http_filters"] if one["name"] == "envoy.filters.http.router"
    )
    manager["http_filters"] = [ext_proc, router]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route.pop("typed_per_filter_config", None)


def _rename_cluster(config: Config, name: str) -> None:
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "egret":
            cluster["name"] = name
