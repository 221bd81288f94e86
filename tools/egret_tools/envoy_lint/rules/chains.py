"""Rules on the filters beside Egret's: other processors, wasm, and filters that read JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import EXT_PROC, EnvoyConfig, EnvoyVersion, chains, settings_of
from egret_tools.envoy_lint.routing import NAMESPACE
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Severity
from egret_tools.envoy_lint.source import Node

_STREAMED: Final = ("STREAMED", "FULL_DUPLEX_STREAMED")
_BODY_READERS: Final = (
    *("Buffer", "Decompressor", "FileSystemBufferFilterConfig", "GrpcJsonTranscoder", "Lua"),
    *("McpJsonRestBridge", "Wasm"),
)
_BODY_READ_BY: Final = {
    "ExtAuthz": ("with_request_body",),
    "JsonToMetadata": ("request_rules",),
    "TransformConfig": ("request_transformation", "body_transformation"),
}
"""Filters that read a body only with this setting."""
_REWRITERS: Final = (
    *("GrpcJsonTranscoder", "Lua", "McpJsonRestBridge", "Wasm", "DynamicModuleFilter"),
)
"""Filters that may change a body; ext_proc is looked at by its body modes."""
_JSON_READERS: Final = ("Mcp",)
"""Filters that parse JSON requests and have the field `reject_duplicate_keys`."""
_TRAILERS: Final = "SYNTHESIZE_TRAILERS"
_SET_IN_LUA: Final = re.compile(rf"""\bset\(\s*["']{NAMESPACE}["']""")
"""`dynamicMetadata():set("egret", key, value)`."""


def _body_modes(filter_: Node) -> tuple[str, str]:
    """Return the body modes of an ext_proc filter, `NONE` for any other filter."""
    typed = settings_of(filter_)
    if typed.type_name != EXT_PROC:
        return "NONE", "NONE"
    modes = typed.at("processing_mode")
    return modes.at("request_body_mode").text, modes.at("response_body_mode").text


def _kind(settings: Node) -> str:
    return settings.type_name.rpartition(".")[2]


def _rewrites(settings: Node) -> bool:
    sides = ("request_transformation", "response_transformation")
    is_transform = any(settings.at(side, "body_transformation").exists for side in sides)
    return _kind(settings) in _REWRITERS or is_transform


def _is_streamed(filter_: Node) -> bool:
    return any(mode in _STREAMED for mode in _body_modes(filter_))


def _read_before(config: EnvoyConfig) -> Iterator[Hit]:
    for listener, filters, own in chains(config):
        for one in filters[:own]:
            typed = settings_of(one)
            kind = _kind(typed)
            is_set = kind in _BODY_READ_BY and typed.at(*_BODY_READ_BY[kind]).exists
            if kind in _BODY_READERS or is_set or _body_modes(one)[0] not in {"", "NONE"}:
                yield Hit(one, f"listener {listener.node.at('name').text}")
                break


def _cached_before(config: EnvoyConfig) -> Iterator[Hit]:
    for _, filters, own in chains(config):
        for one in filters[:own]:
            if _kind(one.at("typed_config")).startswith("Cache"):
                yield Hit(one, one.at("name").text)


def _two_streamed(config: EnvoyConfig) -> Iterator[Hit]:
    if config.envoy is None or config.envoy >= EnvoyVersion(1, 39):
        return
    for _, filters, own in chains(config):
        if not _is_streamed(filters[own]):
            continue
        for index, one in enumerate(filters):
            if index != own and _is_streamed(one):
                yield Hit(one.at("typed_config", "processing_mode"), one.at("name").text)


def _wasm_before(config: EnvoyConfig) -> Iterator[Hit]:
    if config.envoy is None or config.envoy >= EnvoyVersion(1, 40):
        return
    for _, filters, own in chains(config):
        if _is_streamed(filters[own]):
            for one in filters[:own]:
                if one.at("typed_config").type_name.endswith(".Wasm"):
                    yield Hit(one, one.at("name").text)


def _changed_after(config: EnvoyConfig) -> Iterator[Hit]:
    for _, filters, own in chains(config):
        for one in filters[own + 1 :]:
            if _rewrites(settings_of(one)) or _body_modes(one)[0] not in {"", "NONE"}:
                yield Hit(one, one.at("name").text)
    for cluster in config.providers():
        for one in config.upstream_filters(cluster):
            # Also without a body mode: an answer to the headers may replace the body.
            if one.type_name == EXT_PROC or _rewrites(one):
                yield Hit(one, f"cluster {cluster.name}")
    for listener in () if config.whole else config.listeners:
        is_patch = not listener.hcm.at("stat_prefix").text
        for one in listener.hcm.at("http_filters") if is_patch else ():
            if _rewrites(settings_of(one)):
                risk = (
                    "this patch does not show on which side of Egret the filter is: before, it "
                    "reads bodies of callers without a key; after, it can change one that Egret "
                    "has judged"
                )
                hint = "check the config dump of the Envoy that gets it, and suppress this then"
                yield Hit(one, one.at("name").text, risk=risk, hint=hint)


def _duplicate_keys(config: EnvoyConfig) -> Iterator[Hit]:
    for _, filters, own in chains(config):
        for one in filters[:own]:
            typed = one.at("typed_config")
            if _kind(typed) in _JSON_READERS and not typed.at("reject_duplicate_keys").is_true:
                yield Hit(typed.at("reject_duplicate_keys"), one.at("name").text, "true")


def _late_trailers(config: EnvoyConfig) -> Iterator[Hit]:
    for _, filters, _ in chains(config):
        for one in filters:
            typed = one.at("typed_config")
            signal = typed.at("response_handling", "token_usage", "usage_signal")
            if typed.type_name.endswith(".AiProtocolManager") and signal.text == _TRAILERS:
                yield Hit(signal, one.at("name").text)


def _forged_metadata(config: EnvoyConfig) -> Iterator[Hit]:
    for listener in config.listeners:
        for one in listener.hcm.at("http_filters"):
            typed, name = one.at("typed_config"), one.at("name").text
            yield from _writes(typed, name)
            is_other = typed.type_name == EXT_PROC and not config.asks_egret(typed)
            if is_other and any(True for _ in config.filters()):
                yield from _receives(typed, name)
    for cluster in config.reached():
        for one in config.upstream_filters(cluster):
            about = f"cluster {cluster.name}"
            yield from (*_writes(one, about), *_receives(one, about))
    for holder in config.override_holders():
        for name, one in holder.at("typed_per_filter_config").entries():
            yield from _writes(one, name)


def _writes(settings: Node, about: str) -> Iterator[Hit]:
    """Look for Egret's namespace in the field that filters have for it, and in Lua."""
    for name, one in settings.entries():
        if name == "metadata_namespace" and one.text == NAMESPACE:
            yield Hit(one, about)
        if _SET_IN_LUA.search(one.text):
            yield Hit(one, about)
        yield from _writes(one, about)
    for one in settings:
        yield from _writes(one, about)


def _receives(processor: Node, about: str) -> Iterator[Hit]:
    """Look for Egret's namespace among those that another processor may write to."""
    for kind in ("untyped", "typed"):
        for one in processor.at("metadata_options", "receiving_namespaces", kind):
            if one.text == NAMESPACE:
                yield Hit(one, about)


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR503", "body-read-before", _W,
         "a filter before ext_proc reads or changes the body: it costs memory before the key is "
         "checked, and Egret checks another body than the client sent",
         "ext_proc first", _read_before),
    ConfigRule("EGR524", "two-streamed-processors", _E,
         "with two processors that stream bodies, Envoy before 1.39 sends some requests without "
         "their body, or some answers without theirs",
         "Envoy 1.39 or later, or BUFFERED in one of the two", _two_streamed),
    ConfigRule("EGR525", "wasm-before-streamed-body", _E,
         "a wasm filter that pauses a request makes Envoy lose a part of its body before Egret "
         "receives it; fixed in 1.40 and in patch releases of August 2026",
         "Envoy 1.40, or the wasm filter after Egret", _wasm_before),
    ConfigRule("EGR526", "body-changed-after", _W,
         "a filter after Egret can change the body that Egret has judged, or undo a redaction",
         "Egret's filter last of those that read bodies, or suppress this with the reason",
         _changed_after),
    ConfigRule("EGR527", "json-keys-repeated", _N,
         "of a repeated key this filter reads the last, and your routes and rules may use it; "
         "Egret refuses such a body only if a policy needs it",
         "reject_duplicate_keys: true", _duplicate_keys),
    ConfigRule("EGR529", "trailers-in-listener", _E,
         "trailers that a filter of the listener adds never reach Egret: tokens are estimated, "
         "and an answer that a guardrail judges never ends",
         "this filter first in http_filters of each provider's cluster, see docs/usage.md",
         _late_trailers),
    ConfigRule("EGR531", "metadata-forged", _E,
         "another filter writes to Egret's metadata: where the value is from the request, the "
         "client chooses a provider's credential or region, or the owner in logs and usage",
         "a metadata_namespace of its own", _forged_metadata),
    ConfigRule("EGR532", "cached-before", _E,
         "answers from this cache go to clients without a key, and unchecked",
         "this filter after Egret's", _cached_before),
)  # fmt: skip
