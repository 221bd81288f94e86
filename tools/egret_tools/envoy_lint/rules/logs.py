"""Rules on the records that Envoy keeps of requests: access logs, spans, taps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import CREDENTIALS, EnvoyConfig
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Severity
from egret_tools.envoy_lint.source import Node

_SECRETS: Final = frozenset(
    {*CREDENTIALS, "proxy-authorization", "cookie", "x-amz-security-token"}
)
_HEADER: Final = re.compile(r"%REQ(?:UEST_HEADER|_WITHOUT_QUERY)?\(([^)]*)\)")
"""A header of the request; a second one, after `?`, stands in for a first that is missing."""
_QUERY: Final = ("%REQ(:PATH)", "%REQ(X-ENVOY-ORIGINAL-PATH", "%PATH%", "%PATH(WQ")
_READ_IN_LUA: Final = re.compile(
    rf"""\bget\w*\(\s*["']({"|".join(sorted(_SECRETS))})["']""", re.IGNORECASE
)
"""`headers():get("authorization")`, and the other calls that return a header."""
_URL: Final = "http.url"
"""The tag of Envoy's spans that has the path with its query."""


def _access_logs(config: EnvoyConfig) -> Iterator[Node]:
    for listener in config.listeners:
        yield from (one.at("typed_config") for one in listener.hcm.at("access_log"))


def _logs(config: EnvoyConfig) -> Iterator[Node]:
    """Yield the settings of access logs: of requests, and of their tries upstream."""
    yield from _access_logs(config)
    for listener in config.listeners:
        for one in listener.hcm.at("http_filters"):
            yield from (log.at("typed_config") for log in one.at("typed_config", "upstream_log"))


def _text(node: Node) -> str:
    return json.dumps(node.value).upper()


def _secrets(node: Node) -> list[str]:
    """Return the names of headers with keys that formats within *node* write."""
    names = [name for found in _HEADER.findall(_text(node)) for name in found.lower().split("?")]
    return [name for name in dict.fromkeys(names) if name in _SECRETS]


def _logs_secrets(config: EnvoyConfig) -> Iterator[Hit]:
    for typed in _logs(config):
        listed = typed.at("additional_request_headers_to_log")
        names = [*_secrets(typed), *(one.text for one in listed if one.text.lower() in _SECRETS)]
        if names:
            yield Hit(typed, ", ".join(names))
    for listener in config.listeners:
        for tag in listener.hcm.at("tracing", "custom_tags"):
            name = tag.at("request_header", "name").text.lower()
            names = _secrets(tag.at("value")) + ([name] if name in _SECRETS else [])
            if names:
                yield Hit(
                    tag, ", ".join(names), risk="spans keep credentials", hint="leave the tag out"
                )


def _logs_queries(config: EnvoyConfig) -> Iterator[Hit]:
    for typed in _logs(config):
        if any(name in _text(typed) for name in _QUERY):
            yield Hit(typed)
    for listener in config.listeners:
        tracing = listener.hcm.at("tracing")
        tags = {tag.at("tag").text: tag.at("value") for tag in tracing.at("custom_tags")}
        is_replaced = _URL in tags and not any(name in _text(tags[_URL]) for name in _QUERY)
        if tracing.at("provider").exists and not is_replaced:
            risk = f"a query may hold a key or user data, and spans keep it in {_URL}"
            hint = f'custom_tags: [{{tag: {_URL}, value: "%PATH(NQ)%"}}]'
            yield Hit(tracing, risk=risk, hint=hint)


def _log_without_egret(config: EnvoyConfig) -> Iterator[Hit]:
    formats = [(typed, _text(typed)) for typed in _access_logs(config)]
    formats = [(typed, text) for typed, text in formats if "LOG_FORMAT" in text]
    if formats and not any("%DYNAMIC_METADATA(EGRET" in text for _, text in formats):
        yield Hit(formats[0][0])


def _recorded(config: EnvoyConfig) -> Iterator[Hit]:
    """Look for taps, of filters and of sockets, and for files of TLS session keys."""
    for listener in config.listeners:
        filters = (one.at("typed_config") for one in listener.hcm.at("http_filters"))
        about = f"listener {listener.node.at('name').text}"
        for place in (*filters, *_sockets(listener.chain.at("transport_socket"))):
            yield from (Hit(one, about) for one in _records(place))
    for cluster in (*config.providers(), *config.workers()):
        upstream = config.upstream_filters(cluster)
        for place in (*upstream, *_sockets(cluster.node.at("transport_socket"))):
            yield from (Hit(one, f"cluster {cluster.name}") for one in _records(place))


def _copied(config: EnvoyConfig) -> Iterator[Hit]:
    """Look for credentials in headers of other names, in metadata, and in scripts."""
    for holder in (
        *(listener.hcm.at("early_header_mutation_extensions") for listener in config.listeners),
        *(listener.hcm.at("http_filters") for listener in config.listeners),
        *(one for cluster in config.reached() for one in config.upstream_filters(cluster)),
        *config.route_configs,
    ):
        for one in holder.tree():
            header = one.at("header")
            is_own = header.at("key").text.lower() in CREDENTIALS
            names = [] if is_own else _secrets(header.at("value"))
            if header.text.lower() in _SECRETS and one.at("on_header_present").exists:
                names = [header.text.lower()]
            if one.type_name.endswith(".set_filter_state.v3.Config"):
                names = _secrets(one)
            if names:
                yield Hit(one, ", ".join(names))
            script = _READ_IN_LUA.search(one.text)
            if script is not None:
                hint = "let Egret read the key; or suppress this with the reason"
                yield Hit(one, script[1].lower(), hint=hint)


def _sockets(socket: Node) -> Iterator[Node]:
    """Yield the settings of a transport socket, and of those that it wraps."""
    while (typed := socket.at("typed_config")).exists:
        yield typed
        socket = typed.at("transport_socket")


def _records(typed: Node) -> Iterator[Node]:
    if typed.type_name.endswith(".Tap"):
        yield typed
    if typed.at("common_tls_context", "key_log").exists:
        yield typed.at("common_tls_context", "key_log")


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Final = (
    ConfigRule("EGR516", "log-has-credentials", _E,
         "the access log keeps credentials",
         "remove the header from the format", _logs_secrets),
    ConfigRule("EGR517", "log-has-queries", _W,
         "a query may hold a key or user data, and the access log keeps it",
         "%PATH(NQ)%", _logs_queries),
    ConfigRule("EGR518", "log-without-egret", _N,
         "the access log lacks the key, policy and verdict of a request",
         'egret: "%DYNAMIC_METADATA(egret)%"', _log_without_egret),
    ConfigRule("EGR533", "traffic-recorded", _E,
         "this writes keys, prompts and answers, or the keys of TLS to read them, to files or to "
         "the admin",
         "leave the tap or key_log out, or suppress this with the reason", _recorded),
    ConfigRule("EGR534", "credential-copied", _E,
         "a copy of a credential under another name is removed by no rule: the provider, the "
         "client or a record receives it",
         "leave the copy out", _copied),
)  # fmt: skip
