"""Rules on the ext_proc filter, its call to Egret, and overrides of single routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import (
    COMPOSITE,
    FILTER_SWITCH,
    WITH_MATCHER,
    EnvoyConfig,
    EnvoyVersion,
    cluster_of,
    settings_of,
)
from egret_tools.envoy_lint.routing import NAMESPACE, goes_by_choice, goes_by_models, routes_of
from egret_tools.envoy_lint.rule import (
    Broken,
    ConfigRule,
    Hit,
    Look,
    Severity,
    in_each,
    lacking,
    off,
    on,
    present,
    regex_matches,
    where,
)
from egret_tools.envoy_lint.source import Node

DEFAULT_MESSAGE_TIMEOUT_SECONDS: Final = 0.2
MIN_MESSAGE_TIMEOUT_SECONDS: Final = 8.0
"""Egret's own budgets come to 7 s by default (authorize 2, inspect 5)."""

STAT_PREFIX: Final = "egret"
"""In the names of Envoy's counters that the shipped alerts and dashboards read."""
REMOVED_HEADERS: Final = (
    *("authorization", "x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key"),
    *("x-ms-oai-image-generation-deployment", "x-http-method-override", "x-goog-fieldmask"),
)
"""Headers that Egret removes before a request leaves; a rule that forbids it leaves the key in."""
NEEDED_HEADERS: Final = (
    *REMOVED_HEADERS,
    *("x-egret-request-id", "content-length", "retry-after", "x-should-retry"),
    *("x-request-id", "request-id", "x-amzn-requestid"),
    *("x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit"),
)

READ_HEADERS: Final = (
    *("authorization", "x-api-key", "api-key", "x-goog-api-key"),
    *("content-type", "content-encoding", "x-http-method-override"),
)
"""Headers by which Egret recognises a key, or knows how a provider reads the request."""

KGATEWAY_OFF: Final = "global_disable/ext_proc"
"""The filter by which kgateway switches all processors off on a route."""
_METADATA: Final = ".DynamicMetadataInput"
_RECEIVING: Final = ("metadata_options", "receiving_namespaces")
_GATES: Final = ("NONE", "BUFFERED", "FULL_DUPLEX_STREAMED")


def _mode(filter_: Node, name: str) -> Node:
    return filter_.at("processing_mode", name)


def _mode_is(name: str, *modes: str) -> Broken:
    """Name the processing mode *name* where it is one of *modes*."""
    return lambda one: mode if (mode := _mode(one, name)).text in modes else None


def _mode_is_not(name: str, *modes: str) -> Broken:
    """Name the processing mode *name* where it is none of *modes*; "" is none given."""
    return lambda one: mode if (mode := _mode(one, name)).text not in modes else None


def _also_on_routes(broken: Broken, *path: str) -> Look:
    """Look for filters in which *broken* names a place, and overrides of *path* on routes."""

    def look(config: EnvoyConfig) -> Iterator[Hit]:
        overrides = (one.at("overrides") for one in config.ext_proc_overrides())
        changed = (one for one in overrides if one.at(*path).value)  # a list is there, if empty
        yield from in_each(lambda _: (*config.filters(), *changed), broken)(config)

    return look


def _asks_another(config: EnvoyConfig) -> Iterator[Hit]:
    for one in config.ext_proc_overrides():
        if not config.asks_egret(one.at("overrides")):
            yield Hit(one.at("overrides", "grpc_service"), cluster_of(one.at("overrides")))


def _unguarded_routes(config: EnvoyConfig) -> Iterator[Hit]:
    yield from in_each(EnvoyConfig.ext_proc_overrides, on("disabled"))(config)
    names: set[str] = set()
    for one in config.filter_entries():
        if one.at("typed_config").type_name == WITH_MATCHER:
            names.add(one.at("name").text)
            yield from _left_out(one.at("typed_config"))
    for holder in config.override_holders():
        for name, one in holder.at("typed_per_filter_config").entries():
            if name in names:
                yield from _left_out(one)
            if name == KGATEWAY_OFF:
                yield Hit(one)


def _left_out(matched: Node) -> Iterator[Hit]:
    """Look for requests that a matcher leaves out, other than by metadata of other filters."""
    matcher = matched.at("xds_matcher")
    inputs = [one.at("input") for one in matcher.tree() if one.at("input").exists]
    others = [one for one in inputs if not one.at("typed_config").type_name.endswith(_METADATA)]
    skips = [one for one in matcher.tree() if one.type_name.endswith(".SkipFilter")]
    is_composite = matched.at("extension_config", "typed_config").type_name == COMPOSITE
    places = others if is_composite or skips else []
    for place in places[:1] or ([] if inputs else skips[:1]):
        yield Hit(
            place, risk="requests that this matcher leaves out pass unchecked, without a key"
        )


def _disabled(config: EnvoyConfig) -> Iterator[Hit]:
    """Look for a filter that is off, and for the routes that do not enable it if others do."""
    for listener in config.listeners:
        for one in listener.ext_procs():
            if not one.at("disabled").is_true or not config.asks_egret(settings_of(one)):
                continue
            routes = [
                (route, _enables((holder, host, route), one.at("name").text))
                for holder in config.route_configs_of(listener)
                for host in holder.at("virtual_hosts")
                for route in routes_of(host)
                if route.at("route").exists and not config.is_to_admin(route)
            ]
            if not any(is_on for _, is_on in routes):
                yield Hit(one.at("disabled"), replacement="false")
                continue
            for route, is_on in routes:
                if not is_on:
                    risk = "the filter is off and this route does not enable it: requests pass "
                    hint = "the filter in typed_per_filter_config, as on other routes"
                    yield Hit(route, risk=f"{risk}unchecked and without a key", hint=hint)


def _enables(holders: tuple[Node, ...], name: str) -> bool:
    """Return whether the settings nearest to a route switch a filter on that is off by default."""
    shares = [*holders[-1].at("route", "weighted_clusters", "clusters")]
    own = [dict(one.at("typed_per_filter_config").entries()).get(name) for one in holders]
    of_shares = [dict(one.at("typed_per_filter_config").entries()).get(name) for one in shares]
    nearest = next((one for one in reversed(own) if one is not None), None)
    found = [one or nearest for one in of_shares] or [nearest]
    return all(
        one is not None and not (one.type_name == FILTER_SWITCH and one.at("disabled").is_true)
        for one in found
    )


def _short_timeout(one: Node) -> Node | None:
    timeout = one.at("message_timeout")
    seconds = timeout.seconds if timeout.exists else DEFAULT_MESSAGE_TIMEOUT_SECONDS
    return timeout if (seconds or 0) < MIN_MESSAGE_TIMEOUT_SECONDS else None


def _no_override(config: EnvoyConfig) -> Iterator[Hit]:
    for one in config.filters():
        is_none = _mode(one, "request_body_mode").text in {"", "NONE"}
        if is_none and not one.at("allow_mode_override").is_true:
            yield Hit(one.at("allow_mode_override"), replacement="true")


def _no_trailers(one: Node) -> Node | None:
    for side in ("request", "response"):
        is_duplex = _mode(one, f"{side}_body_mode").text == "FULL_DUPLEX_STREAMED"
        trailers = _mode(one, f"{side}_trailer_mode")
        if is_duplex and trailers.text != "SEND":
            return trailers
    return None


def _forbidden_headers(config: EnvoyConfig) -> Iterator[Hit]:
    for one in config.filters():
        rules = one.at("mutation_rules")
        forbidden = [name for name in NEEDED_HEADERS if not _may_change(rules, name)]
        if forbidden:
            yield Hit(rules, ", ".join(forbidden))


def _may_change(rules: Node, name: str) -> bool:
    """Return whether Envoy's mutation rules let *name* be changed: disallow first, then allow."""
    if not rules.exists:
        return True
    if regex_matches(rules.at("disallow_expression", "regex"), name):
        return False
    if regex_matches(rules.at("allow_expression", "regex"), name):
        return True
    is_system = name.startswith(":") and rules.at("disallow_system").is_true
    return not (rules.at("disallow_all").is_true or is_system)


def _withheld(one: Node) -> Node | None:
    rules = one.at("forward_rules")
    allowed, disallowed = rules.at("allowed_headers"), rules.at("disallowed_headers")
    for name in READ_HEADERS:
        if _lists(disallowed, name) or (allowed.exists and not _lists(allowed, name)):
            return rules
    return None


def _lists(matchers: Node, name: str) -> bool:
    """Return whether a list of string matchers has one for a header."""
    return any(
        name == one.at("exact").text.lower()
        or regex_matches(one.at("safe_regex", "regex"), name)
        or (one.at("prefix").exists and name.startswith(one.at("prefix").text))
        or (one.at("suffix").exists and name.endswith(one.at("suffix").text))
        or (one.at("contains").exists and one.at("contains").text in name)
        for one in matchers.at("patterns")
    )


def _path_kept(one: Node) -> Node | None:
    rules = one.at("mutation_rules")
    return None if _may_change(rules, ":path") else rules


def _client_span_off(config: EnvoyConfig) -> Iterator[Hit]:
    for one in config.filters():
        if one.at("emit_client_span").value is False:
            yield Hit(one.at("emit_client_span"), replacement="true")


def _no_content_length(config: EnvoyConfig) -> Iterator[Hit]:
    if config.envoy is not None and config.envoy < EnvoyVersion(1, 38):
        return  # which lacks the field
    for one in config.filters():
        if not one.at("allow_content_length_header").is_true:
            yield Hit(one.at("allow_content_length_header"), replacement="true")


def _override_not_listed(one: Node) -> Node | None:
    listed = one.at("allowed_override_modes")
    asks = _mode(one, "request_body_mode").text in {"", "NONE"}
    if not asks or not any(True for _ in listed) or any(map(_is_override, listed)):
        return None
    return listed


def _is_override(mode: Node) -> bool:
    is_streamed = mode.at("request_body_mode").text == "FULL_DUPLEX_STREAMED"
    return is_streamed and mode.at("request_trailer_mode").text == "SEND"


def _other_stats(one: Node) -> Node | None:
    prefix = one.at("stat_prefix")
    return None if prefix.text == STAT_PREFIX else prefix


def _route_kept(config: EnvoyConfig) -> Iterator[Hit]:
    if not any(goes_by_models(one) or goes_by_choice(one) for one in config.route_configs):
        return
    for one in config.filters():
        if one.at("disable_clear_route_cache").is_true:
            yield Hit(one.at("disable_clear_route_cache"), replacement="false")
        if one.at("route_cache_action").text == "RETAIN":
            yield Hit(one.at("route_cache_action"), replacement="DEFAULT")


def _no_retry(one: Node) -> Node | None:
    retry_on = one.at("grpc_service", "retry_policy", "retry_on")
    return None if retry_on.text else retry_on


def _same_host_again(one: Node) -> Node | None:
    policy = one.at("grpc_service", "retry_policy")
    if not policy.exists:
        return None
    hosts = policy.at("retry_host_predicate")
    return None if any("previous_hosts" in host.at("name").text for host in hosts) else hosts


def _retries_deadline(one: Node) -> Node | None:
    retry_on = one.at("grpc_service", "retry_policy", "retry_on")
    return retry_on if "deadline-exceeded" in retry_on.text else None


def _other_client(one: Node) -> Node | None:
    for place in (one.at("http_service"), one.at("grpc_service", "google_grpc")):
        if place.exists:
            return place
    return None


def _stream_timeout(one: Node) -> Node | None:
    timeout = one.at("grpc_service", "timeout")
    return timeout if (timeout.seconds or 0) > 0 else None


def _envoy_headers(config: EnvoyConfig) -> Iterator[Hit]:
    for one in config.filters():
        envoy_grpc = one.at("grpc_service", "envoy_grpc")
        if envoy_grpc.exists and not envoy_grpc.at("skip_envoy_headers").is_true:
            yield Hit(envoy_grpc.at("skip_envoy_headers"), replacement="true")


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR101", "failure-mode-allow", _E,
         "while Egret is down, every request passes unchecked and without a key",
         "failure_mode_allow: false", where(on("failure_mode_allow"), "false")),
    ConfigRule("EGR102", "message-timeout", _E,
         "Envoy answers 504 before Egret's own budgets end; its default is 200 ms",
         "message_timeout: 10s", where(_short_timeout)),
    ConfigRule("EGR103", "mode-override-off", _E,
         "with bodies NONE, Egret requests a body by mode_override; Envoy ignores it, and the "
         "request waits until it fails",
         "allow_mode_override: true", _no_override),
    ConfigRule("EGR104", "request-headers-skipped", _E,
         "Egret never receives a request without a body: it passes without a key",
         "request_header_mode: SEND",
         _also_on_routes(_mode_is("request_header_mode", "SKIP"), "processing_mode")),
    ConfigRule("EGR105", "request-body-no-gate", _E,
         "in this mode a body leaves before, or without, a verdict; Egret refuses such streams",
         "request_body_mode: NONE",
         _also_on_routes(_mode_is_not("request_body_mode", "", *_GATES), "processing_mode")),
    ConfigRule("EGR106", "full-duplex-trailers", _E,
         "Envoy rejects a full-duplex body without its trailers; a control plane's update is "
         "silently dropped",
         "request_trailer_mode and response_trailer_mode: SEND", where(_no_trailers)),
    ConfigRule("EGR107", "response-headers-phase", _W,
         "each stream lives until the model is done, and a worker that dies fails its requests",
         "response_header_mode: SKIP; Egret enables it if a policy needs it",
         where(_mode_is_not("response_header_mode", "SKIP"))),
    ConfigRule("EGR108", "response-body-phase", _W,
         "every answer goes through Egret, also if no policy needs it",
         "response_body_mode: NONE; Egret enables it if a policy needs it",
         where(_mode_is_not("response_body_mode", "", "NONE"))),
    ConfigRule("EGR109", "metadata-namespace", _E,
         "Envoy silently drops Egret's dynamic metadata: no timing headers, no usage, nothing in "
         "the access log",
         "metadata_options: {receiving_namespaces: {untyped: [egret]}}",
         _also_on_routes(lacking(NAMESPACE, *_RECEIVING, "untyped"), *_RECEIVING)),
    ConfigRule("EGR110", "mutation-rules-silent", _W,
         "a change that Envoy does not allow is silently dropped; it could be the removal of a "
         "credential",
         "mutation_rules: {disallow_is_error: true, …}, see docs/envoy.md",
         where(off("mutation_rules", "disallow_is_error"))),
    ConfigRule("EGR111", "mutation-rules-too-tight", _E,
         "Egret may not change a header that it must remove or write",
         "name it in mutation_rules.allow_expression", _forbidden_headers),
    ConfigRule("EGR136", "path-kept", _N,
         "an alias of a model that the path names (Azure, Gemini, Vertex AI, Bedrock) fails its "
         "requests with 500",
         "name :path in mutation_rules.allow_expression, if policies have aliases",
         where(_path_kept)),
    ConfigRule("EGR137", "headers-withheld", _W,
         "Egret does not receive a header that it reads: it refuses keys in it, or judges another "
         "request than the provider reads",
         "leave forward_rules out", where(_withheld)),
    ConfigRule("EGR112", "client-span-off", _W,
         "Egret gets an unsampled parent that is never exported: its spans are lost",
         "leave emit_client_span out", _client_span_off),
    ConfigRule("EGR113", "observability-mode", _E,
         "Envoy sends copies and ignores the verdicts: nothing is refused or redacted",
         "leave observability_mode out; use `mode: shadow` in a policy",
         where(on("observability_mode"), "false")),
    ConfigRule("EGR114", "immediate-responses-off", _E,
         "every refusal becomes a 500 without the client's dialect",
         "leave disable_immediate_response out", where(on("disable_immediate_response"), "false")),
    ConfigRule("EGR115", "body-before-headers", _E,
         "Envoy ignores mode_override and sends the body before the key is checked",
         "leave send_body_without_waiting_for_header_response out",
         where(on("send_body_without_waiting_for_header_response"), "false")),
    ConfigRule("EGR126", "filter-disabled", _E,
         "the filter does nothing until a route enables it",
         "disabled: false", _disabled),
    ConfigRule("EGR127", "content-length-dropped", _N,
         "a body that Egret changes is sent to the provider chunked, which some refuse",
         "allow_content_length_header: true", _no_content_length),
    ConfigRule("EGR128", "source-address-withheld", _W,
         "Egret gets no client address and refuses every key that is bound to networks",
         "request_attributes: [source.address]",
         _also_on_routes(lacking("source.address", "request_attributes"), "request_attributes")),
    ConfigRule("EGR129", "request-body-buffered", _N,
         "Envoy holds each body until it is whole, and answers 413 to one that is larger than its "
         "buffer",
         "request_body_mode: NONE, or FULL_DUPLEX_STREAMED",
         where(_mode_is("request_body_mode", "BUFFERED"))),
    ConfigRule("EGR130", "route-by-model-kept", _E,
         "routes use the model that Egret reads in the body, or a policy's choice of provider, "
         "and every request keeps the route it had before that",
         "leave disable_clear_route_cache and route_cache_action out", _route_kept),
    ConfigRule("EGR132", "override-not-listed", _E,
         "Envoy ignores a mode_override that is not in this list: every request whose body Egret "
         "asks for fails",
         "leave allowed_override_modes out", where(_override_not_listed)),
    ConfigRule("EGR133", "stat-prefix", _N,
         "Envoy counts this filter's calls under another name, or together with other "
         "processors: the shipped alerts and dashboards do not see them",
         "stat_prefix: egret", where(_other_stats)),
    ConfigRule("EGR123", "route-unguarded", _E,
         "requests on this route pass unchecked and without a key",
         "remove the override, or suppress this with the reason", _unguarded_routes),
    ConfigRule("EGR124", "route-fails-open", _E,
         "while Egret is down, requests on this route pass unchecked",
         "failure_mode_allow: false",
         in_each(EnvoyConfig.ext_proc_overrides, on("overrides", "failure_mode_allow"), "false")),
    ConfigRule("EGR125", "route-mode", _W,
         "Egret sees this mode on this route only, and a test of one route does not cover the "
         "others",
         "one processing_mode for all",
         in_each(EnvoyConfig.ext_proc_overrides, present("overrides", "processing_mode"))),
    ConfigRule("EGR138", "route-asks-another", _E,
         "requests on this route go to another processor than Egret: they pass unchecked and "
         "without a key",
         "leave overrides.grpc_service out", _asks_another),
    ConfigRule("EGR116", "no-retry", _W,
         "a worker that restarts fails the requests that reach it at that moment",
         "grpc_service.retry_policy with retry_on, see docs/envoy.md", where(_no_retry)),
    ConfigRule("EGR117", "retry-same-worker", _W,
         "a dead worker fails fast and looks least busy, so every retry may hit it again",
         "retry_host_predicate: envoy.retry_host_predicates.previous_hosts",
         where(_same_host_again)),
    ConfigRule("EGR118", "retry-deadline", _W,
         "a second try after a timeout doubles the wait and the load during overload",
         "remove deadline-exceeded from retry_on", where(_retries_deadline)),
    ConfigRule("EGR119", "retry-policy-misplaced", _W,
         "Envoy uses envoy_grpc.retry_policy for xDS only: nothing is retried",
         "move it to grpc_service.retry_policy",
         where(present("grpc_service", "envoy_grpc", "retry_policy"))),
    ConfigRule("EGR120", "grpc-client", _E,
         "Egret supports Envoy's own gRPC client only; retries and graceful closes are lost here",
         "grpc_service: {envoy_grpc: {cluster_name: egret}}", where(_other_client)),
    ConfigRule("EGR121", "stream-timeout", _W,
         "the timeout covers the whole stream and cuts uploads and guarded answers",
         "leave grpc_service.timeout out; Egret has budgets of its own", where(_stream_timeout)),
    ConfigRule("EGR122", "envoy-headers", _N,
         "Envoy adds x-forwarded-for and x-envoy-internal to each gRPC call",
         "envoy_grpc.skip_envoy_headers: true", _envoy_headers),
)  # fmt: skip
