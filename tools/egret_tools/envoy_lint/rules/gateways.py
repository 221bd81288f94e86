"""Rules on resources that make a gateway ask Egret.

Field names of EnvoyExtensionPolicy are those of Envoy Gateway's api/v1alpha1/ext_proc_types.go,
those of EnvoyFilter Istio's networking/v1alpha3, those of GatewayExtension kgateway's
api/v1alpha1/ext_proc_types.go, those of BackendSecurityPolicy Envoy AI Gateway's
api/v1beta1/backendsecurity_policy.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import EXT_PROC, EXT_PROC_NAME
from egret_tools.envoy_lint.routing import NAMESPACE
from egret_tools.envoy_lint.rule import Hit, ResourceRule, Severity, in_each, lacking, on, present
from egret_tools.envoy_lint.rules.ext_proc import MIN_MESSAGE_TIMEOUT_SECONDS
from egret_tools.envoy_lint.source import Node

_GO_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PARTS: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_GO_DURATION: Final = re.compile(rf"(?:{_GO_PARTS.pattern})+")
EXTENSION_POLICY: Final = "EnvoyExtensionPolicy"
ENVOY_FILTER: Final = "EnvoyFilter"
GATEWAY_EXTENSION: Final = "GatewayExtension"
TRAFFIC_POLICY: Final = "TrafficPolicy"
BACKENDS: Final = ("Backend", "BackendConfigPolicy", "DestinationRule")
"""The kinds with TLS to a server: of Envoy Gateway, of kgateway, of Istio."""
SECURITY_POLICY: Final = "BackendSecurityPolicy"
READ: Final = frozenset({EXTENSION_POLICY, GATEWAY_EXTENSION, SECURITY_POLICY})
"""The kinds that rules here read as a whole."""


def _ext_procs(resource: Node) -> Iterator[Node]:
    yield from resource.at("spec", "extProc")


def _no_address(resource: Node) -> Iterator[Hit]:
    for one in _ext_procs(resource):
        request = one.at("processingMode", "request")
        if request.exists and lacking("source.address", "attributes")(request) is not None:
            yield Hit(request.at("attributes"))


def _unverified(resource: Node) -> Iterator[Hit]:
    for one in resource.at("spec").tree():
        if one.at("insecureSkipVerify").is_true:
            yield Hit(one.at("insecureSkipVerify"), replacement="false")


def _switched_off(resource: Node) -> Iterator[Hit]:
    one = resource.at("spec", "extProc", "disable")
    if one.exists:
        yield Hit(one)


def _go_seconds(node: Node) -> float | None:
    """Read a duration as Go writes it, such as `1m30s`."""
    if not _GO_DURATION.fullmatch(node.text):
        return None
    return sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_PARTS.findall(node.text))


def _short_timeout(resource: Node) -> Iterator[Hit]:
    for one in _ext_procs(resource):
        seconds = _go_seconds(one.at("messageTimeout")) or 0.2
        if seconds < MIN_MESSAGE_TIMEOUT_SECONDS:
            yield Hit(one.at("messageTimeout"), replacement="10s")


def _no_request(resource: Node) -> Iterator[Hit]:
    for one in _ext_procs(resource):
        mode = one.at("processingMode")
        if not mode.at("request").exists:
            yield Hit(mode)


def _no_gate(resource: Node) -> Iterator[Hit]:
    for one in _ext_procs(resource):
        body = one.at("processingMode", "request", "body")
        if body.text in {"Streamed", "BufferedPartial"}:
            yield Hit(body, replacement="FullDuplexStreamed")


def _no_body(resource: Node) -> Iterator[Hit]:
    for one in _ext_procs(resource):
        mode = one.at("processingMode")
        has_body = mode.at("request", "body").exists
        if mode.at("request").exists and not has_body and not mode.at("allowModeOverride").is_true:
            yield Hit(mode.at("allowModeOverride"), replacement="true")


def _replaces(resource: Node) -> Iterator[Hit]:
    """Look for targets below a gateway: of their policies only the most specific takes effect."""
    spec = resource.at("spec")
    targets = [spec.at("targetRef"), *spec.at("targetRefs"), *spec.at("targetSelectors")]
    if any(True for _ in _ext_procs(resource)) or spec.at("mergeType").exists:
        return
    for one in targets:
        if one.at("sectionName").exists or one.at("kind").text not in {"", "Gateway"}:
            yield Hit(one, f"{one.at('kind').text} {one.at('name').text}".rstrip())


def _unscoped(resource: Node) -> Iterator[Hit]:
    spec = resource.at("spec")
    if not spec.at("targetRefs").exists and not spec.at("workloadSelector").exists:
        yield Hit(spec)


def _filter_removed(resource: Node) -> Iterator[Hit]:
    for one in resource.at("spec", "configPatches"):
        manager = one.at("match", "listener", "filterChain", "filter")
        name = manager.at("subFilter", "name").text
        is_named = name in {"", EXT_PROC_NAME} or NAMESPACE in name
        operation, value = one.at("patch", "operation").text, one.at("patch", "value")
        typed = value.at("typed_config")
        is_other = EXT_PROC not in {typed.type_name, typed.at("type_url").text.rpartition("/")[2]}
        is_removed = operation == "REMOVE" or (operation == "REPLACE" and name and is_other)
        if is_removed and is_named and one.at("applyTo").text == "HTTP_FILTER":
            yield Hit(one, name)


def _extension_fails_open(resource: Node) -> Iterator[Hit]:
    one = resource.at("spec", "extProc")
    if one.exists and one.at("failOpen").value is not False:
        yield Hit(one.at("failOpen"), replacement="false")


def _extension_short_timeout(resource: Node) -> Iterator[Hit]:
    one = resource.at("spec", "extProc")
    seconds = _go_seconds(one.at("messageTimeout")) or 0.2
    if one.exists and seconds < MIN_MESSAGE_TIMEOUT_SECONDS:
        yield Hit(one.at("messageTimeout"), replacement="10s")


def _extension_no_gate(resource: Node) -> Iterator[Hit]:
    """Look at the mode of the extension; one in a TrafficPolicy is not read."""
    one = resource.at("spec", "extProc")
    mode = one.at("processingMode", "requestBodyMode")
    is_asked_for = one.at("allowProcessingModeOverride").is_true and mode.text in {"", "NONE"}
    if one.at("processingMode").exists and not is_asked_for and mode.text not in _GATES:
        yield Hit(mode, replacement="FULL_DUPLEX_STREAMED")


def _falls_back(resource: Node) -> Iterator[Hit]:
    for name in ("fromRequestHeaders", "fromDynamicMetadata"):
        source = resource.at("spec", "credentialOverride", name)
        fallback = source.at("fallbackToConfigured")
        if source.exists and fallback.value is not False:
            yield Hit(fallback, replacement="false")


def _name_as_secret(resource: Node) -> Iterator[Hit]:
    namespace = resource.at("spec", "credentialOverride", "fromDynamicMetadata", "namespace")
    if namespace.text == NAMESPACE:
        yield Hit(namespace)


_GATES: Final = ("BUFFERED", "FULL_DUPLEX_STREAMED")
_E, _W = Severity.ERROR, Severity.WARNING

RULES: Final = (
    ResourceRule(
        "EGR601", "policy-fail-open", _E,
        "while Egret is down, every request passes unchecked and without a key",
        "failOpen: false", (EXTENSION_POLICY,),
        in_each(_ext_procs, on("failOpen"), "false"),
    ),
    ResourceRule(
        "EGR602", "policy-message-timeout", _E,
        "Envoy answers 504 before Egret's own budgets end; the default is 200 ms",
        "messageTimeout: 10s", (EXTENSION_POLICY,), _short_timeout,
    ),
    ResourceRule(
        "EGR603", "policy-no-request", _E,
        "without `request` the gateway sends Egret nothing, and every request passes",
        "processingMode: {request: {}}", (EXTENSION_POLICY,), _no_request,
    ),
    ResourceRule(
        "EGR604", "policy-body-no-gate", _E,
        "in this mode a body leaves before, or without, a verdict",
        "body: FullDuplexStreamed, or Buffered", (EXTENSION_POLICY,), _no_gate,
    ),
    ResourceRule(
        "EGR605", "policy-no-body", _E,
        "Egret can neither receive nor request a body: requests that need a check are refused",
        "allowModeOverride: true, or request: {body: FullDuplexStreamed}",
        (EXTENSION_POLICY,), _no_body,
    ),
    ResourceRule(
        "EGR606", "policy-metadata", _W,
        "the gateway drops Egret's dynamic metadata: no usage, nothing in the access log",
        "metadata: {writableNamespaces: [egret]}", (EXTENSION_POLICY,),
        in_each(_ext_procs, lacking(NAMESPACE, "metadata", "writableNamespaces")),
    ),
    ResourceRule(
        "EGR607", "policy-response-phase", _W,
        "each stream lives until the model is done, and a worker that dies fails its requests",
        "leave `response` out", (EXTENSION_POLICY,),
        in_each(_ext_procs, present("processingMode", "response")),
    ),
    ResourceRule(
        "EGR608", "filter-unscoped", _E,
        "without a target this reaches every proxy of the mesh",
        "spec.targetRefs or spec.workloadSelector", (ENVOY_FILTER,), _unscoped,
    ),
    ResourceRule(
        "EGR609", "extension-fails-open", _E,
        "kgateway's failOpen is true by default: while Egret is down, every request passes "
        "unchecked and without a key",
        "failOpen: false", (GATEWAY_EXTENSION,), _extension_fails_open,
    ),
    ResourceRule(
        "EGR610", "extension-message-timeout", _E,
        "Envoy answers 504 before Egret's own budgets end; the default is 200 ms",
        "messageTimeout: 10s", (GATEWAY_EXTENSION,), _extension_short_timeout,
    ),
    ResourceRule(
        "EGR611", "extension-body-no-gate", _E,
        "in this mode a body leaves before, or without, a verdict, or Egret can neither receive "
        "nor request it",
        "requestBodyMode: FULL_DUPLEX_STREAMED, with both trailer modes SEND",
        (GATEWAY_EXTENSION,), _extension_no_gate,
    ),
    ResourceRule(
        "EGR612", "credential-falls-back", _W,
        "a request without a credential of its own leaves with the configured one; this is the "
        "default of Envoy AI Gateway",
        "fallbackToConfigured: false", (SECURITY_POLICY,), _falls_back,
    ),
    ResourceRule(
        "EGR613", "credential-name-sent", _E,
        "Egret's metadata has the name of a credential, and the provider would receive it as its "
        "key",
        "fromRequestHeaders, see docs/gateways/envoy-ai-gateway.md",
        (SECURITY_POLICY,), _name_as_secret,
    ),
    ResourceRule(
        "EGR614", "filter-removed", _E,
        "this takes Egret's filter away: requests pass unchecked and without a key",
        "leave this patch out, or name another filter in subFilter", (ENVOY_FILTER,),
        _filter_removed,
    ),
    ResourceRule(
        "EGR616", "policy-source-address", _W,
        "Egret gets no client address and refuses every key that is bound to networks",
        "processingMode: {request: {attributes: [source.address]}}", (EXTENSION_POLICY,),
        _no_address,
    ),
    ResourceRule(
        "EGR617", "extension-switched-off", _E,
        "requests to this target pass unchecked and without a key",
        "leave extProc.disable out, or suppress this with the reason", (TRAFFIC_POLICY,),
        _switched_off,
    ),
    ResourceRule(
        "EGR618", "backend-unverified", _E,
        "any certificate is accepted: an attacker on the way can read prompts and the provider's "
        "key",
        "leave insecureSkipVerify out, and name a CA", BACKENDS, _unverified,
    ),
    ResourceRule(
        "EGR615", "policy-replaced", _W,
        "this replaces the whole policy of the gateway for its target: if that one makes it call "
        "Egret, requests pass here unchecked and without a key",
        "Egret's extProc here too, or mergeType: StrategicMerge", (EXTENSION_POLICY,), _replaces,
    ),
)  # fmt: skip
