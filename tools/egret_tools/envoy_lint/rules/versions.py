"""Rules on the version of Envoy: settings that are too new for it, and their replacements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from egret_tools.envoy_lint.config import EnvoyConfig, EnvoyVersion
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Severity
from egret_tools.envoy_lint.source import Node


@dataclass(frozen=True, slots=True)
class _Feature:
    """Something that Envoy has since a version; `instead` is the replacement for an older one."""

    name: str
    since: EnvoyVersion
    instead: str
    places: Callable[[EnvoyConfig], Iterator[Node]]


def _bodies_on_demand(config: EnvoyConfig) -> Iterator[Node]:
    for one in config.filters():
        mode = one.at("processing_mode", "request_body_mode")
        if one.at("allow_mode_override").is_true and mode.text in {"", "NONE"}:
            yield one.at("allow_mode_override")


def _lengths(config: EnvoyConfig) -> Iterator[Node]:
    for one in config.filters():
        if one.at("allow_content_length_header").is_true:
            yield one.at("allow_content_length_header")


def _token_counts(config: EnvoyConfig) -> Iterator[Node]:
    for listener in config.listeners:
        for one in listener.hcm.at("http_filters"):
            if one.at("typed_config").type_name.endswith("AiProtocolManager"):
                yield one


def _exported_logs(config: EnvoyConfig) -> Iterator[Node]:
    for listener in config.listeners:
        for one in listener.hcm.at("access_log"):
            typed = one.at("typed_config")
            if typed.type_name.endswith("OpenTelemetryAccessLogConfig"):
                yield from (each for each in (typed.at("grpc_service"),) if each.exists)


def _fallbacks(config: EnvoyConfig) -> Iterator[Node]:
    for route in config.routes():
        plugin = route.at("route", "inline_cluster_specifier_plugin", "extension", "typed_config")
        if plugin.type_name.endswith("PriorityGroupClusterSpecifier"):
            yield plugin


def _kept_traces(config: EnvoyConfig) -> Iterator[Node]:
    for listener in config.listeners:
        place = listener.hcm.at("tracing", "no_context_propagation")
        if place.is_true:
            yield place


def _tags(config: EnvoyConfig) -> Iterator[Node]:
    for listener in config.listeners:
        for tag in listener.hcm.at("tracing", "custom_tags"):
            if tag.at("value").text:
                yield tag.at("value")


FEATURES: Final = (
    _Feature("a body that Egret asks for", EnvoyVersion(1, 40),
             "request_body_mode: FULL_DUPLEX_STREAMED, with both trailer modes SEND",
             _bodies_on_demand),
    _Feature("token counts of answers", EnvoyVersion(1, 40),
             "leave ai_protocol_manager and the access log to Egret out, EGRET_USAGE__SOURCE=off",
             _token_counts),
    _Feature("a second provider", EnvoyVersion(1, 40),
             "cluster: one provider a route", _fallbacks),
    _Feature("a changed body with its length", EnvoyVersion(1, 38),
             "leave allow_content_length_header out: a changed body goes on chunked", _lengths),
    _Feature("traces that end at Envoy", EnvoyVersion(1, 38),
             "leave tracing out, or the provider learns your trace ids", _kept_traces),
    _Feature("an access log in calls that are answered", EnvoyVersion(1, 37),
             "leave the access log to Egret out, EGRET_USAGE__SOURCE=off", _exported_logs),
    _Feature("a tag from a format", EnvoyVersion(1, 37),
             "leave the tag out", _tags),
)  # fmt: skip
"""By the fields that Envoy 1.36.4, 1.37.0, 1.38.3 and 1.39.3 know; it refuses unknown ones."""


def _too_new(config: EnvoyConfig) -> Iterator[Hit]:
    if config.envoy is None:
        return
    for feature in FEATURES:
        if config.envoy < feature.since:
            about = f"{feature.name} needs Envoy {feature.since} ({feature.instead})"
            yield from (Hit(place, about) for place in feature.places(config))


RULES: Final = (
    ConfigRule("EGR522", "envoy-too-old", Severity.ERROR,
         "this Envoy does not support it, and does not start or does not send Egret the "
         "necessary data",
         "the version that is named, or the replacement in parentheses", _too_new),
)  # fmt: skip
