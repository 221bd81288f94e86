"""Rules on the version of Envoy: settings that are too new for it, and its known faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from egret_tools.envoy_lint.config import EnvoyConfig, EnvoyVersion
from egret_tools.envoy_lint.routing import routes_of
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
    for host in config.virtual_hosts():
        for holder in (host, *routes_of(host)):
            for _, one in holder.at("typed_per_filter_config").entries():
                if one.type_name.endswith("AiProtocolManagerPerRoute"):
                    yield one


def _exported_logs(config: EnvoyConfig) -> Iterator[Node]:
    for listener in config.listeners:
        for one in listener.hcm.at("access_log"):
            typed = one.at("typed_config")
            is_export = typed.type_name.endswith("OpenTelemetryAccessLogConfig")
            if is_export and typed.at("grpc_service").exists:
                yield typed


def _fallbacks(config: EnvoyConfig) -> Iterator[Node]:
    for route in config.routes():
        plugin = route.at("route", "inline_cluster_specifier_plugin", "extension", "typed_config")
        if plugin.type_name.endswith("PriorityGroupClusterSpecifier"):
            yield plugin
            again = route.at("route", "retry_policy", "refresh_cluster_on_retry")
            yield from (one for one in (again,) if one.is_written)


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
             "leave ai_protocol_manager out and send answers, EGRET_USAGE__SOURCE=answers",
             _token_counts),
    _Feature("a second provider", EnvoyVersion(1, 40),
             "cluster: one provider a route", _fallbacks),
    _Feature("a changed body with its length", EnvoyVersion(1, 38),
             "leave allow_content_length_header out: a changed body goes on chunked", _lengths),
    _Feature("traces that end at Envoy", EnvoyVersion(1, 38),
             "leave tracing out, or the provider learns your trace ids", _kept_traces),
    _Feature("an access log in calls that are answered", EnvoyVersion(1, 37),
             "leave the access log out and send answers, EGRET_USAGE__SOURCE=answers",
             _exported_logs),
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


OUTDATED: Final = "EGR522"
"""The rule whose findings name a replacement for an older Envoy."""
_OPERATOR: Final = re.compile(r"%%|%([A-Z][A-Z0-9_]*)(?:\(.*?\))?(?::\d+)?%")
"""A command operator of Envoy's format strings, or a percent sign (two of them)."""


_OLDEST: Final = EnvoyVersion(1, 36)
"""The oldest version whose command operators are known."""


@cache
def _operators() -> dict[str, EnvoyVersion]:
    """Return the first minor version, from 1.36 on, that has each command operator."""
    table = resources.files("egret_tools.envoy_lint").joinpath("command_operators.tsv").read_text()
    rows = (line.split("\t") for line in table.splitlines())
    return {name: EnvoyVersion.of(since) for name, since in rows}


def _unreadable_call_headers(config: EnvoyConfig) -> Iterator[Hit]:
    services = [one.at("grpc_service") for one in config.filters()]
    services += [one.at("overrides", "grpc_service") for one in config.ext_proc_overrides()]
    for service in services:
        for header in service.at("initial_metadata"):
            problem = _format_problem(header.at("value").text, config.envoy)
            if problem:
                yield Hit(header.at("value"), f"{header.at('key').text}: {problem}")


def _unreadable_logs(config: EnvoyConfig) -> Iterator[Hit]:
    for listener in config.listeners:
        for log in listener.hcm.at("access_log"):
            formats = log.at("typed_config", "log_format")
            if any(True for _ in formats.at("formatters")):
                continue  # they may have operators of their own
            texts = [formats.at("text_format"), formats.at("text_format_source", "inline_string")]
            for text in (*texts, *_leaves(formats.at("json_format"))):
                problem = _format_problem(text.text, config.envoy)
                if problem:
                    yield Hit(text, problem)


def _leaves(node: Node) -> Iterator[Node]:
    """Yield the values below *node* that are neither maps nor lists."""
    within = [*(one for _, one in node.entries()), *node]
    if not within:
        yield node
    for one in within:
        yield from _leaves(one)


def _format_problem(value: str, envoy: EnvoyVersion | None) -> str:
    """Return the reason why Envoy cannot read a format string, empty if it can."""
    if "%" in _OPERATOR.sub("", value):
        return "a % that begins no command operator"
    for name in filter(None, (found[1] for found in _OPERATOR.finditer(value))):
        since = _operators().get(name)
        if since is None:
            return f"Envoy has no command operator {name}"
        if envoy is not None and max(envoy, _OLDEST) < since:
            return f"{name} is a command operator since Envoy {since}"
    return ""


def _uncounted(config: EnvoyConfig) -> Iterator[Hit]:
    if config.envoy is not None and config.envoy < EnvoyVersion(1, 37):
        yield from (Hit(one.at("stat_prefix")) for one in config.filters())


def _faults(config: EnvoyConfig) -> Iterator[Hit]:
    if config.envoy is not None and config.envoy < EnvoyVersion(1, 40):
        yield from (Hit(one) for one in config.filters())


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR131", "call-header-unreadable", _E,
         "Envoy before 1.39 then lets every request pass unchecked, whatever failure_mode_allow "
         "says; later ones fail every request",
         "a command operator of this Envoy, or %% for a percent sign", _unreadable_call_headers),
    ConfigRule("EGR528", "log-format-unreadable", _E,
         "Envoy does not start with this access log, or rejects a control plane's update",
         "a command operator of this Envoy, or %% for a percent sign", _unreadable_logs),
    ConfigRule("EGR134", "bypass-not-counted", _N,
         "Envoy before 1.37 lacks the counters server_half_closed and immediate_responses_sent: "
         "the alert on requests that pass unchecked cannot fire, and refusals are not counted",
         "Envoy 1.37 or later", _uncounted),
    ConfigRule("EGR135", "ext-proc-faults", _N,
         "Envoy 1.39 and 1.40 fixed faults of ext_proc itself, among them CVE-2026-47207 and a "
         "use of freed memory",
         "Envoy 1.40, or the latest patch release of this version", _faults),
    ConfigRule(OUTDATED, "envoy-too-old", _E,
         "this Envoy does not support it, and does not start or does not send Egret the "
         "necessary data",
         "the version that is named, or the replacement in parentheses", _too_new),
)  # fmt: skip
