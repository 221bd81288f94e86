"""Rules on routes to providers: times, retries, and headers that a provider receives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import (
    CREDENTIALS,
    FILTER_SWITCH,
    EnvoyConfig,
    Listener,
)
from egret_tools.envoy_lint.routing import (
    CHOICES,
    MODEL_HEADER,
    choices,
    goes_by_model,
    goes_by_models,
    routes_of,
    targets,
)
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Severity, is_signer
from egret_tools.envoy_lint.source import Node

MIN_ANSWER_SECONDS: Final = 60.0
DEFAULT_ROUTE_SECONDS: Final = 15.0
DOUBLE_RETRIES: Final = (
    "5xx",
    "gateway-error",
    "reset",
    "retriable-4xx",
    "http3-post-connect-failure",
)
"""`reset` alone: `reset-before-request` is safe."""
BEGUN_CODES: Final = frozenset(range(500, 600)) - {501, 503, 529}
"""Status codes of an answer that a provider may have begun; 503 and 529 refuse for overload."""
ORIGINAL_DST_HEADER: Final = "x-envoy-original-dst-host"
_OVERWRITES: Final = ("OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")
TRACES: Final = ("traceparent", "tracestate", "baggage", "x-request-id")


def _short_timeout(config: EnvoyConfig) -> Iterator[Hit]:
    for route in config.routes():
        timeout = route.at("route", "timeout")
        seconds = timeout.seconds if timeout.exists else DEFAULT_ROUTE_SECONDS
        if seconds and seconds < MIN_ANSWER_SECONDS:
            yield Hit(timeout, replacement="0s")
    for limit in _stream_limits(config):
        if limit.seconds and limit.seconds < MIN_ANSWER_SECONDS:
            yield Hit(limit, hint="max_stream_duration: 3600s, or another that no answer takes")


def _stream_limits(config: EnvoyConfig) -> Iterator[Node]:
    """Yield the limits of a whole stream: of routes, and of what holds without one there."""
    own = [
        one.at("route", "max_stream_duration", "max_stream_duration") for one in config.routes()
    ]
    yield from own
    common = ("common_http_protocol_options", "max_stream_duration")
    if not config.whole or not all(one.exists for one in own):
        yield from (listener.hcm.at(*common) for listener in _guarded(config))
    for cluster in config.providers():
        yield from (cluster.http_options.at(*common), cluster.node.at(*common))


def _guarded(config: EnvoyConfig) -> Iterator[Listener]:
    return (
        one for one in config.listeners if not config.whole or any(True for _ in one.ext_procs())
    )


def _short_idle(config: EnvoyConfig) -> Iterator[Hit]:
    idles = [route.at("route", "idle_timeout") for route in config.routes()]
    if not config.whole or not all(one.exists for one in idles):
        idles += [listener.hcm.at("stream_idle_timeout") for listener in _guarded(config)]
    for idle in idles:
        if idle.seconds is not None and 0 < idle.seconds < MIN_ANSWER_SECONDS:
            yield Hit(idle)


def _endless(config: EnvoyConfig) -> Iterator[Hit]:
    for route in config.routes():
        limit = route.at("route", "max_stream_duration", "max_stream_duration")
        is_endless = route.at("route", "timeout").seconds == 0
        if is_endless and not limit.exists:
            yield Hit(limit)


def _holders(config: EnvoyConfig) -> Iterator[Node]:
    """Yield the parts that may have a policy of retries, or of hedging."""
    yield from config.virtual_hosts()
    yield from (route.at("route") for route in config.routes())


def _policies(config: EnvoyConfig) -> Iterator[Node]:
    for holder in _holders(config):
        yield from (holder.at("retry_policy"), holder.at("retry_policy_typed_config"))


def _double_retry(config: EnvoyConfig) -> Iterator[Hit]:
    for policy in _policies(config):
        conditions = {one.strip() for one in policy.at("retry_on").text.split(",")}
        double = sorted(conditions.intersection(DOUBLE_RETRIES))
        if double:
            yield Hit(policy.at("retry_on"), ", ".join(double))
        codes = (
            policy.at("retriable_status_codes") if "retriable-status-codes" in conditions else ()
        )
        begun = [code for code in codes if int(code.number or 0) in BEGUN_CODES]
        if begun:
            yield Hit(begun[0], ", ".join(f"{code.number:.0f}" for code in begun))
    for holder in _holders(config):
        hedged = holder.at("hedge_policy", "hedge_on_per_try_timeout")
        if hedged.is_true:
            yield Hit(hedged, "hedging", hint="leave hedge_policy out")


def _billed_copies(config: EnvoyConfig) -> Iterator[Hit]:
    """Look for copies to clusters with a credential, which are those of providers."""
    asked = {
        one.name for one in config.mirrors() if any(map(is_signer, config.upstream_filters(one)))
    }
    holders = (*config.route_configs, *config.virtual_hosts(), *_holders(config))
    for one in (each for holder in holders for each in holder.at("request_mirror_policies")):
        if one.at("cluster").text in asked:
            yield Hit(one, f"cluster {one.at('cluster').text}")


def _per_try_timeout(config: EnvoyConfig) -> Iterator[Hit]:
    for policy in _policies(config):
        if (policy.at("per_try_timeout").seconds or 0) > 0:
            yield Hit(policy.at("per_try_timeout"))


def _upgrades(config: EnvoyConfig) -> Iterator[Hit]:
    places = [listener.hcm for listener in config.listeners]
    places += [route.at("route") for route in config.routes()]
    for place in places:
        for one in place.at("upgrade_configs"):
            if one.at("enabled").value is not False:
                yield Hit(one, one.at("upgrade_type").text)


def _upgrades_that_hang(config: EnvoyConfig) -> Iterator[Hit]:
    if any(_request_mode(one) == "BUFFERED" for one in config.filters()):
        yield from _upgrades(config)


def _request_mode(filter_: Node) -> str:
    return filter_.at("processing_mode", "request_body_mode").text


def _doubled_bodies(config: EnvoyConfig) -> Iterator[Hit]:
    if any(
        _request_mode(one) == "FULL_DUPLEX_STREAMED"
        and one.at("processing_mode", "request_trailer_mode").text == "SEND"
        for one in config.filters()
    ):
        yield from (Hit(policy) for policy in _policies(config) if policy.at("retry_on").text)


def _late_switches(config: EnvoyConfig) -> Iterator[Hit]:
    for host in config.virtual_hosts():
        for route in filter(goes_by_model, routes_of(host)):
            for name, one in route.at("typed_per_filter_config").entries():
                is_switch = one.type_name == FILTER_SWITCH and one.at("disabled").is_written
                if is_switch:
                    yield Hit(one.at("disabled"), name)


def _removed(holder: Node, host: Node, route: Node) -> set[str]:
    lists = (one.at("request_headers_to_remove") for one in (holder, host, route))
    return {name.text.lower() for one in lists for name in one}


def _leaks(config: EnvoyConfig, names: tuple[str, ...]) -> Iterator[Hit]:
    for holder in config.route_configs:
        for host in holder.at("virtual_hosts"):
            for route in routes_of(host):
                if not route.at("route").exists or config.is_to_admin(route):
                    continue
                kept = sorted(set(names) - _removed(holder, host, route))
                if kept:
                    yield Hit(host.at("request_headers_to_remove"), ", ".join(kept))
                    break


def _own_host(config: EnvoyConfig) -> Iterator[Hit]:
    remote = {
        cluster.name
        for cluster in config.providers()
        if not (cluster.is_local or cluster.is_forward_proxy)
    }
    remote = config.leading_to(remote)
    for route in config.routes():
        action = route.at("route")
        names = ("host_rewrite_literal", "host_rewrite_header", "host_rewrite_path_regex")
        rewrites = any(action.at(name).value for name in names)
        leaves = not remote.isdisjoint(targets(action))
        if leaves and not (rewrites or action.at("auto_host_rewrite").is_true):
            yield Hit(action.at("host_rewrite_literal"))


def _spoofed_model(config: EnvoyConfig) -> Iterator[Hit]:
    for listener in config.listeners:
        inline = listener.hcm.at("route_config")
        # Routes that a control plane sends may be those of any listener.
        routes = (inline,) if inline.exists else config.route_configs
        early = listener.hcm.at("early_header_mutation_extensions")
        if any(map(goes_by_models, routes)) and not _removes(early, MODEL_HEADER):
            yield Hit(early)


def _clusters_by_client(config: EnvoyConfig) -> Iterator[Hit]:
    if not config.whole and not config.listeners:
        # The listener of a patch of routes is in another file, and so is a removal there.
        for holder in config.route_configs:
            for place in _cluster_headers(holder):
                if place.text and place.text.lower() != MODEL_HEADER:
                    yield Hit(place, place.text.lower())
    for listener in config.listeners:
        inline = listener.hcm.at("route_config")
        early = listener.hcm.at("early_header_mutation_extensions")
        for holder in (inline,) if inline.exists else config.route_configs:
            for place in _cluster_headers(holder):
                name = place.text.lower()
                # A client's own x-egret-model is a finding of EGR410.
                if name and name != MODEL_HEADER and not _removes(early, name):
                    yield Hit(place, name)
        for cluster in config.providers():
            by_header = cluster.node.at("original_dst_lb_config")
            name = by_header.at("http_header_name").text.lower() or ORIGINAL_DST_HEADER
            if by_header.at("use_http_header").is_true and not _removes(early, name):
                risk = (
                    "a client that sends this header chooses the server, which gets the credential"
                )
                yield Hit(by_header, name, risk=risk)


def _cluster_headers(route_config: Node) -> Iterator[Node]:
    hosts = list(route_config.at("virtual_hosts"))
    actions = [route.at("route") for host in hosts for route in routes_of(host)]
    for action in actions:
        for one in (action, *action.at("weighted_clusters", "clusters")):
            yield one.at("cluster_header")
    for holder in (route_config, *hosts, *actions):
        for one in holder.at("request_mirror_policies"):
            yield one.at("cluster_header")


def _removes(early: Node, name: str) -> bool:
    """Return whether early header mutations leave nothing of a client's own header."""
    for one in (mutation for each in early for mutation in each.at("typed_config", "mutations")):
        key = one.at("remove_on_match", "key_matcher")
        prefix = key.at("prefix").text.lower()
        is_prefix = bool(prefix) and name.startswith(prefix)
        if is_prefix or name in (one.at("remove").text.lower(), key.at("exact").text):
            return True
        written = one.at("append", "header")
        is_over = one.at("append", "append_action").text in _OVERWRITES
        is_fixed = "%" not in written.at("value").text
        if is_over and is_fixed and written.at("key").text.lower() == name:
            return True
    return False


def _leaks_model(config: EnvoyConfig) -> Iterator[Hit]:
    for holder in config.route_configs:
        for host in holder.at("virtual_hosts"):
            for route in routes_of(host):
                is_kept = MODEL_HEADER not in _removed(holder, host, route)
                if is_kept and route.at("route").exists and goes_by_model(route):
                    yield Hit(host.at("request_headers_to_remove"))
                    break


def _open_choices(config: EnvoyConfig) -> Iterator[Hit]:
    """Look for the first usual route that a choice reaches without a route for its value."""
    for holder in config.route_configs:
        hosts = [list(routes_of(host)) for host in holder.at("virtual_hosts")]
        used = {name for routes in hosts for route in routes for name in choices(route)}
        for routes in hosts:
            refused: set[str] = set()
            for route in routes:
                named = choices(route)
                if _is_refusal(route):
                    refused |= named
                elif route.at("route").exists and not named and not config.is_to_admin(route):
                    passing = sorted(used - refused - choices(route, absent=True))
                    if passing:
                        yield Hit(route, ", ".join(passing))
                        break


def _is_refusal(route: Node) -> bool:
    """Return whether a route answers every request that has one name, whatever else it has."""
    matched = list(route.at("match", "dynamic_metadata"))
    is_whole = route.at("match", "prefix").text == "/" and not [*route.at("match", "headers")]
    is_any = len(matched) == 1 and matched[0].at("value", "present_match").is_true
    return route.at("direct_response").exists and is_whole and is_any


def _ignored_choices(config: EnvoyConfig) -> Iterator[Hit]:
    for route in config.routes():
        named = choices(route)
        ignored = sorted(CHOICES - named - choices(route, absent=True))
        if named and ignored:
            yield Hit(route.at("match", "dynamic_metadata"), ", ".join(ignored))


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR401", "route-timeout", _E,
         "Envoy cuts every answer at this time, 15 s by default; completions take longer",
         "timeout: 0s, with idle_timeout and max_stream_duration", _short_timeout),
    ConfigRule("EGR402", "route-idle-timeout", _W,
         "a model that reasons is silent for longer than this",
         "idle_timeout: 300s or more", _short_idle),
    ConfigRule("EGR403", "route-endless", _N,
         "a stream that never ends holds its connection for ever",
         "max_stream_duration", _endless),
    ConfigRule("EGR404", "retry-twice-billed", _W,
         "a completion that the provider has begun is requested, and billed, again; a stream may "
         "start over",
         "retry_on: connect-failure,refused-stream,reset-before-request", _double_retry),
    ConfigRule("EGR405", "per-try-timeout", _W,
         "a slow completion is cut and requested again, and again",
         "per_try_idle_timeout", _per_try_timeout),
    ConfigRule("EGR406", "upgrades", _E,
         "after an upgrade nothing is checked: frames of a websocket pass unseen",
         "leave upgrade_configs out, or suppress this with the reason", _upgrades),
    ConfigRule("EGR407", "credential-leak", _W,
         "without this only Egret keeps a client's credential from the provider",
         "request_headers_to_remove on the virtual host, see docs/envoy.md",
         lambda config: _leaks(config, CREDENTIALS)),
    ConfigRule("EGR408", "trace-leak", _W,
         "the provider receives your trace and request ids, and a client's baggage",
         "request_headers_to_remove: [traceparent, tracestate, baggage, x-request-id]",
         lambda config: _leaks(config, TRACES)),
    ConfigRule("EGR409", "own-host", _W,
         "the provider receives your host name and answers 404 or 421",
         "host_rewrite_literal", _own_host),
    ConfigRule("EGR410", "model-route-spoofed", _E,
         "a client's own x-egret-model selects the provider of every request that Egret does not "
         "check",
         "early_header_mutation_extensions that remove x-egret-model, see docs/envoy.md",
         _spoofed_model),
    ConfigRule("EGR411", "model-header-leak", _N,
         "the provider receives x-egret-model, which is only for your routes",
         "request_headers_to_remove: [x-egret-model]", _leaks_model),
    ConfigRule("EGR412", "upgrade-hangs", _E,
         "an upgrade has no body that ends, and Envoy waits for one (BUFFERED) until a timer "
         "fails the request",
         "leave upgrade_configs out, or request_body_mode: NONE", _upgrades_that_hang),
    ConfigRule("EGR413", "retry-doubles-body", _W,
         "if a request ends in trailers and a retry is possible, Envoy sends a streamed body "
         "twice in one request; Egret refuses that only where a policy needs the body",
         "leave retry_policy out, or request_body_mode: NONE", _doubled_bodies),
    ConfigRule("EGR414", "model-route-switch", _W,
         "Envoy decides which filters run by the route that a request has at first; a route that "
         "Egret's x-egret-model selects later no longer enables or disables one",
         "the switch on all routes, or a setting of the filter itself", _late_switches),
    ConfigRule("EGR415", "provider-choice-open", _E,
         "routes act on this choice of a policy, and a value without a route of its own leaves by "
         "a usual one: with another credential, or in another region",
         "before the usual routes a direct_response with 503 for each name, see docs/envoy.md",
         _open_choices),
    ConfigRule("EGR416", "provider-choice-ignored", _W,
         "this route acts on one choice of a policy and takes requests that have this one too",
         "the same matcher with present_match and invert: true for each of the other names",
         _ignored_choices),
    ConfigRule("EGR418", "copies-billed", _W,
         "the provider answers each copy as well: it is billed, and neither limited nor recorded",
         "leave request_mirror_policies out, or a cluster without a credential", _billed_copies),
    ConfigRule("EGR417", "cluster-by-client", _E,
         "a client that sends this header chooses any cluster: another provider and its "
         "credential, or Envoy's admin",
         "early_header_mutation_extensions that remove it, or a route for each cluster",
         _clusters_by_client),
)  # fmt: skip
