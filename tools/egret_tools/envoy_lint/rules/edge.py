"""Rules on the side of the clients: listeners, headers, and the administration interface."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from egret_tools.envoy_lint.config import Endpoint, EnvoyConfig, Listener
from egret_tools.envoy_lint.routing import targets
from egret_tools.envoy_lint.rule import (
    Broken,
    ConfigRule,
    Hit,
    Look,
    Severity,
    absent,
    in_each,
    off,
    on,
)
from egret_tools.envoy_lint.scope import asks, leads_to
from egret_tools.envoy_lint.source import Node

CERTIFICATE_HEADER: Final = "x-forwarded-client-cert"
MAX_BUFFER: Final = 1 << 20
HARMLESS: Final = ("/stats/prometheus", "/stats", "/ready")
"""Paths of the admin that others may read: numbers, and whether it serves."""


def _guarded(broken: Callable[[Listener], Node | None], replacement: str | None = None) -> Look:
    """Look at the listeners that ask Egret."""
    return in_each(
        lambda config: (one for one in config.listeners if asks(config, one)),
        broken,
        replacement,
        about=lambda listener: _named(listener.node),
    )


def _manager(broken: Broken, replacement: str | None = None) -> Look:
    """Look at the connection managers of the listeners that ask Egret."""
    return _guarded(lambda listener: broken(listener.hcm), replacement)


def lacks_egret(config: EnvoyConfig) -> bool:
    """Return whether no filter of a whole configuration asks Egret, or may once discovered."""
    filters = (one for listener in config.listeners for one in listener.hcm.at("http_filters"))
    is_open = any(one.at("config_discovery").exists for one in filters)  # named as not checked
    return config.whole and not is_open and not any(config.filters())


def _no_filter(config: EnvoyConfig) -> Iterator[Hit]:
    if config.nodes and config.place and lacks_egret(config):
        yield Hit(config.place)


def _unguarded(config: EnvoyConfig) -> Iterator[Hit]:
    if not any(True for _ in config.filters()):
        return
    providers = config.leading_to({cluster.name for cluster in config.providers()})
    for listener in config.listeners:
        if not asks(config, listener) and leads_to(config, listener, providers):
            yield Hit(listener.hcm.at("http_filters"), _named(listener.node))
    for tcp in config.tcp_listeners:
        # Only this Envoy itself connects to an internal listener.
        is_internal = tcp.node.at("internal_listener").exists
        if not is_internal and not providers.isdisjoint(targets(tcp.proxy)):
            hint = "an HTTP connection manager with Egret's ext_proc filter, not tcp_proxy"
            yield Hit(tcp.proxy, _named(tcp.node), hint=hint)


def _elsewhere(config: EnvoyConfig) -> Iterator[Hit]:
    at = {one.path for one in config.nodes}
    return (Hit(one, _named(one)) for one in config.elsewhere if one.path in at)


def _named(listener: Node) -> str:
    return f"listener {listener.at('name').text}"


_NOT_EGRETS: Final = re.compile(
    r"response_flag_filter|\"response\.code_details(\.startsWith\('ext_proc_error'\)"
    r"| == 'direct_response'( && [^|\"]*)?| == 'upgrade_failed')\""
)


def _rewritten(hcm: Node) -> Node | None:
    """Find a change of local replies that holds for Egret's refusals.

    They set no flag, and their details are not those of a processor that failed, of a route or of
    an upgrade.
    """
    replies = hcm.at("local_reply_config")
    for mapper in replies.at("mappers"):
        changes = ("status_code", "body", "body_format_override")
        is_apart = _NOT_EGRETS.search(json.dumps(mapper.at("filter").value)) is not None
        if not is_apart and any(mapper.at(name).exists for name in changes):
            return mapper
    return replies.at("body_format") if replies.at("body_format").exists else None


def _signed_before(listener: Listener) -> Node | None:
    """Find a signer of the listener, which signs before Egret and the route change a request."""
    for one in listener.hcm.at("http_filters"):
        if one.at("typed_config").type_name.endswith("AwsRequestSigning"):
            return one
    return None


_ESCAPED_SLASH: Final = ".*%(2[Ff]|5[Cc]).*"
_IN_AN_ARN: Final = (
    "(/bedrock)?/model/arn((:|%3[Aa])[A-Za-z0-9-]*){4}(:|%3[Aa])[a-z-]+"
    "(%2[Ff][A-Za-z0-9]([A-Za-z0-9._:-]|%3[Aa])*)+/[a-z-]+([?].*)?"
)


def _escaped_slashes(listener: Listener) -> Node | None:
    """Find an action that passes them, unless each host's first route refuses all but in ARNs."""
    action = listener.hcm.at("path_with_escaped_slashes_action")
    hosts = [*listener.hcm.at("route_config", "virtual_hosts")]
    firsts = [next(iter(host.at("routes")), None) for host in hosts]
    is_refused = action.text == "KEEP_UNCHANGED" and firsts and all(map(_refuses_them, firsts))
    return None if action.text == "REJECT_REQUEST" or is_refused else action


def _refuses_them(route: Node | None) -> bool:
    if route is None or not route.at("direct_response").exists:
        return False
    match = route.at("match")
    conditions = {name for name, held in match.entries() if held.value}
    spared = [
        (one.at("name").text, one.at("invert_match").is_true,
         one.at("string_match", "safe_regex", "regex").text)
        for one in match.at("headers")
    ]  # fmt: skip
    return (
        conditions <= {"safe_regex", "headers"}
        and match.at("safe_regex", "regex").text == _ESCAPED_SLASH
        and spared in ([], [(":path", True, _IN_AN_ARN)])
    )


def _underscores(listener: Listener) -> Node | None:
    action = listener.hcm.at("common_http_protocol_options", "headers_with_underscores_action")
    return None if action.text in {"REJECT_REQUEST", "DROP_HEADER"} else action


def _no_idle_timeout(config: EnvoyConfig) -> Iterator[Hit]:
    yield from _guarded(lambda listener: _never(listener.hcm.at("stream_idle_timeout")), "300s")(
        config
    )
    routes = (route.at("route", "idle_timeout") for route in config.routes())
    yield from (Hit(one, replacement="300s") for one in routes if _never(one) is not None)


def _names_of_clients(config: EnvoyConfig) -> Iterator[Hit]:
    yield from _manager(off("skip_xff_append"), "true")(config)
    removed = (
        name.text.lower()
        for one in config.override_holders()
        for name in one.at("request_headers_to_remove")
    )
    if CERTIFICATE_HEADER not in removed:
        risk = f"the provider receives {CERTIFICATE_HEADER}, which names your clients"
        hint = f"request_headers_to_remove: [{CERTIFICATE_HEADER}]"
        hits = _guarded(lambda listener: _forwards_certificate(listener.hcm))(config)
        yield from (replace(hit, risk=risk, hint=hint) for hit in hits)


def _forwards_certificate(hcm: Node) -> Node | None:
    details = hcm.at("forward_client_cert_details")
    return details if details.text not in {"", "SANITIZE"} else None


def _never(timeout: Node) -> Node | None:
    return timeout if timeout.exists and timeout.seconds == 0 else None


def _no_stream_limit(listener: Listener) -> Node | None:
    limit = listener.hcm.at("http2_protocol_options", "max_concurrent_streams")
    has_http2 = listener.hcm.at("codec_type").text in {"AUTO", "HTTP2"}
    return limit if has_http2 and not limit.exists else None


def _wide_buffer(listener: Listener) -> Node | None:
    limit = listener.node.at("per_connection_buffer_limit_bytes")
    return limit if (limit.number or MAX_BUFFER) >= MAX_BUFFER else None


def _plain(listener: Listener) -> Node | None:
    secured = listener.chain.at("transport_socket")
    is_plain = not secured.exists or secured.at("typed_config").type_name.endswith(".RawBuffer")
    return secured if is_plain and not listener.is_local else None


def _any_address(listener: Listener) -> Node | None:
    trusted = ("xff_trusted_cidrs", "cidrs")
    by_proxies = any(
        one.at("typed_config", *trusted).value
        for one in listener.hcm.at("original_ip_detection_extensions")
    )
    return None if by_proxies else off("use_remote_address")(listener.hcm)


def _open_admin(config: EnvoyConfig) -> Iterator[Hit]:
    if config.bootstrap is None:
        return
    address = config.bootstrap.at("admin", "address")
    allowed = list(config.bootstrap.at("admin", "allow_paths"))
    is_harmless = bool(allowed) and all(one.at("exact").text in HARMLESS for one in allowed)
    if address.exists and not Endpoint(address).is_local and not is_harmless:
        yield Hit(address)


def _no_overload_manager(config: EnvoyConfig) -> Iterator[Hit]:
    if config.bootstrap is not None and config.listeners:
        place = config.bootstrap.at("overload_manager")
        if not place.exists:
            yield Hit(place)


def _open_route(config: EnvoyConfig) -> Iterator[Hit]:
    for route in config.admin_routes():
        match = route.at("match")
        if match.at("path").text not in HARMLESS or not any(map(_is_get, match.at("headers"))):
            yield Hit(match)


def _is_get(header: Node) -> bool:
    is_method = header.at("name").text == ":method" and not header.at("invert_match").is_true
    return is_method and header.at("string_match", "exact").text == "GET"


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

NO_FILTER: Final = ConfigRule(
    "EGR501", "no-ext-proc", _E,
    "no filter in this configuration calls Egret",
    "the ext_proc filter of docs/envoy.md; or name its cluster with --cluster",
    _no_filter,
)  # fmt: skip
"""Where no filter calls Egret no other rule applies."""
RULES: Final = (
    NO_FILTER,
    ConfigRule("EGR502", "listener-unguarded", _E,
         "this listener routes to a provider without calling Egret",
         "the same ext_proc filter", _unguarded),
    ConfigRule("EGR504", "path-not-normalised", _E,
         "Egret and the provider may interpret `/A%2Fb/../c` as different routes",
         "normalize_path: true", _manager(off("normalize_path"), "true")),
    ConfigRule("EGR505", "slashes-not-merged", _N,
         "a path with two slashes is a route of its own",
         "merge_slashes: true", _manager(off("merge_slashes"), "true")),
    ConfigRule("EGR506", "escaped-slashes", _W,
         "`%2F` in a path is a slash for some servers and not for others",
         "path_with_escaped_slashes_action: REJECT_REQUEST",
         _guarded(_escaped_slashes, "REJECT_REQUEST")),
    ConfigRule("EGR507", "underscores", _W,
         "`x_api_key` becomes x-api-key in some servers: a credential that was not removed",
         "headers_with_underscores_action: REJECT_REQUEST",
         _guarded(_underscores, "REJECT_REQUEST")),
    ConfigRule("EGR508", "client-address", _W,
         "the client's address is taken from a header that the client may write",
         "use_remote_address: true, or behind proxies original_ip_detection_extensions with "
         "xff_trusted_cidrs", _guarded(_any_address, "true")),
    ConfigRule("EGR509", "request-headers-timeout", _W,
         "a client that never finishes its headers holds a connection for ever",
         "request_headers_timeout: 10s", _manager(absent("request_headers_timeout"))),
    ConfigRule("EGR510", "stream-idle-timeout-off", _E,
         "it is the only timer of Envoy that runs while Egret holds a request",
         "stream_idle_timeout: 300s; on a route idle_timeout: 300s", _no_idle_timeout),
    ConfigRule("EGR511", "external-request-id", _W,
         "a client chooses the id that joins logs, spans and usage",
         "preserve_external_request_id: false",
         _manager(on("preserve_external_request_id"), "false")),
    ConfigRule("EGR512", "http2-streams", _W,
         "one connection may open 1024 streams and more, and each is checked",
         "http2_protocol_options: {max_concurrent_streams: 100}", _guarded(_no_stream_limit)),
    ConfigRule("EGR513", "connection-buffer", _W,
         "each connection may take a mebibyte of Envoy's memory and more",
         "per_connection_buffer_limit_bytes: 65536", _guarded(_wide_buffer)),
    ConfigRule("EGR514", "listener-in-the-clear", _W,
         "keys and prompts arrive without TLS",
         "a transport_socket with DownstreamTlsContext, or a listener on loopback",
         _guarded(_plain)),
    ConfigRule("EGR515", "forwarded-for", _N,
         "Envoy adds your clients' addresses to the headers for the provider",
         "skip_xff_append: true", _names_of_clients),
    ConfigRule("EGR519", "admin-open", _E,
         "every client with access to the admin can stop Envoy and read its configuration",
         "a Unix socket: address: {pipe: {path: …, mode: 384}}, or allow_paths with "
         "/stats/prometheus alone", _open_admin),
    ConfigRule("EGR520", "no-overload-manager", _W,
         "under load Envoy is killed for its memory instead of rejecting requests",
         "overload_manager with fixed_heap and a limit of connections", _no_overload_manager),
    ConfigRule("EGR521", "signed-too-early", _E,
         "the signature for AWS is made before changes by Egret, the route or the host name: 403",
         "aws_request_signing among the http_filters of the provider's cluster",
         _guarded(_signed_before)),
    ConfigRule("EGR530", "refusals-rewritten", _W,
         "Egret's refusals are local replies of Envoy: clients receive another status, or a body "
         "that no client library reads",
         "in each mapper a response_flag_filter, or details that begin with ext_proc_error or are "
         "direct_response, which Egret's refusals do not match; no body_format for all",
         _manager(_rewritten)),
    ConfigRule("EGR535", "listener-elsewhere", _N,
         "it leads neither to Egret nor to a provider of models; no rule was applied to it",
         "nothing, if it serves something else", _elsewhere),
    ConfigRule("EGR523", "admin-routed", Severity.ERROR,
         "every client with access to this route reaches Envoy's admin, which can stop Envoy and "
         "show its configuration",
         'match: {path: /stats/prometheus, headers: [{name: ":method", '
         "string_match: {exact: GET}}]}",
         _open_route),
)  # fmt: skip
