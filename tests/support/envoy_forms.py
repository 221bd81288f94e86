"""Further forms of mistakes in an Envoy configuration, and right forms that look like one."""

from __future__ import annotations

import copy
from typing import Any, Final

from tests.support.own_envoy import (
    FILTERS,
    Config,
    Mistake,
    cluster_of,
    ext_proc_filter_of,
    hcm_of,
    host_of,
    listener_of,
    options_of,
    per_route,
    provider_of,
    route_of,
    with_filter,
)

_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions"
_SOCKETS: Final = f"{_EXTENSIONS}.transport_sockets"
_TAP: Final[Config] = {"common_config": {"admin_config": {"config_id": "debug"}}}
RAW: Final[Config] = {
    "name": "envoy.transport_sockets.raw_buffer",
    "typed_config": {"@type": f"{_SOCKETS}.raw_buffer.v3.RawBuffer"},
}
TAP: Final[Config] = {"@type": f"{FILTERS}.tap.v3.Tap", **_TAP}


def of_hcm(**fields: Any) -> Mistake:
    """Return a mistake in the HTTP connection manager of clients."""
    return lambda config: hcm_of(config).update(fields)


def of_route(**fields: Any) -> Mistake:
    """Return a mistake in the action of the last route."""
    return lambda config: route_of(config).update(fields)


def _tls(config: Config) -> Any:
    return provider_of(config)["transport_socket"]["typed_config"]


def _validation(**fields: Any) -> Mistake:
    """Return other fields of a provider's validation context; None takes one away."""

    def mistake(config: Config) -> None:
        context = _tls(config)["common_tls_context"]["validation_context"]
        context.update(fields)
        for name in [name for name, value in context.items() if value is None]:
            del context[name]

    return mistake


def _named(**matcher: Any) -> Mistake:
    return _validation(match_typed_subject_alt_names=[{"san_type": "DNS", "matcher": matcher}])


def _ca_from_a_secret(**fields: Any) -> Mistake:
    """Combine a CA that has a file of its own with these fields."""
    source = {"path_config_source": {"path": "/etc/egret/sds/openai.yaml"}}
    secret = {"name": "ca", "sds_config": source}

    def mistake(config: Config) -> None:
        common = _tls(config)["common_tls_context"]
        del common["validation_context"]
        common["combined_validation_context"] = {
            "default_validation_context": fields,
            "validation_context_sds_secret_config": secret,
        }

    return mistake


def _wrapped(kind: str, **fields: Any) -> Mistake:
    def mistake(config: Config) -> None:
        inner = provider_of(config)["transport_socket"]
        typed = {"@type": f"{_SOCKETS}.{kind}", "transport_socket": inner, **fields}
        provider_of(config)["transport_socket"] = {"name": "wrapper", "typed_config": typed}

    return mistake


def _plain(config: Config) -> None:
    """Speak HTTP/1.1 to a provider, which needs no TLS to agree on it."""
    options = options_of(provider_of(config))
    del options["auto_config"]
    options["explicit_http_config"] = {"http_protocol_options": {}}


def _plain_for_some(config: Config) -> None:
    _plain(config)
    provider_of(config)["transport_socket_matches"] = [
        {"name": "plain", "match": {}, "transport_socket": RAW}
    ]


def _by_quic(config: Config) -> None:
    typed = _tls(config)
    del typed["@type"]
    kind = f"{_SOCKETS}.quic.v3.QuicUpstreamTransport"
    quic = {"@type": kind, "upstream_tls_context": typed}
    provider_of(config)["transport_socket"] = {
        "name": "envoy.transport_sockets.quic",
        "typed_config": quic,
    }
    options = options_of(provider_of(config))
    del options["auto_config"]
    options["explicit_http_config"] = {"http3_protocol_options": {}}


def _workers_by_tls(**context: Any) -> Mistake:
    """Reach Egret's workers over TCP and TLS."""

    def mistake(config: Config) -> None:
        workers = cluster_of(config, "egret")
        address = {"socket_address": {"address": "10.0.0.5", "port_value": 50051}}
        workers["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
            {"endpoint": {"address": address}}
        ]
        kind = f"{_SOCKETS}.tls.v3.UpstreamTlsContext"
        common = {"validation_context": context}
        typed = {"@type": kind, "sni": "egret.svc", "common_tls_context": common}
        workers["transport_socket"] = {"name": "tls", "typed_config": typed}

    return mistake


_CA: Final[Config] = {"filename": "/etc/ssl/certs/ca-certificates.crt"}
_OF_EGRET: Final = [{"san_type": "DNS", "matcher": {"exact": "egret.svc"}}]


def _to_workers(*, is_old: bool) -> Mistake:
    """Let ten times as many frames wait for a worker as Envoy does by default."""

    def mistake(config: Config) -> None:
        workers = cluster_of(config, "egret")
        http2 = {"max_outbound_frames": 100_000}
        options_of(workers)["explicit_http_config"]["http2_protocol_options"] = http2
        if is_old:
            del workers["typed_extension_protocol_options"]
            workers["http2_protocol_options"] = http2

    return mistake


def _header(name: str, value: str) -> Config:
    return {"header": {"key": name, "value": value}}


def _writes(name: str, value: str) -> Config:
    """Return a filter that writes a header of requests."""
    settings = {"request_mutations": [{"append": _header(name, value)}]}
    kind = f"{FILTERS}.header_mutation.v3.HeaderMutation"
    return {"name": "key", "typed_config": {"@type": kind, "mutations": settings}}


def _instead_of_injector(filter_: Config) -> Mistake:
    return lambda config: options_of(provider_of(config))["http_filters"].__setitem__(0, filter_)


def _for_a_share(config: Config) -> None:
    action = route_of(config)
    share = {"name": action.pop("cluster"), "weight": 1}
    share["request_headers_to_add"] = [_header("authorization", "Bearer sk-1")]
    action["weighted_clusters"] = {"clusters": [share]}


def with_shared_injector(config: Config) -> None:
    """Let a filter of the listener give one provider's key to each request."""
    filters = options_of(provider_of(config))["http_filters"]
    hcm_of(config)["http_filters"].insert(-1, copy.deepcopy(filters[0]))


def _by_the_router(config: Config) -> None:
    """Move the filters of the providers' clusters to the router, which has them for all."""
    moved = options_of(provider_of(config)).pop("http_filters")
    options_of(cluster_of(config, "anthropic")).pop("http_filters")
    hcm_of(config)["http_filters"][-1]["typed_config"]["upstream_http_filters"] = moved


def _lua_by_the_router(config: Config) -> None:
    _by_the_router(config)
    lua = {"@type": f"{FILTERS}.lua.v3.Lua"}
    moved = hcm_of(config)["http_filters"][-1]["typed_config"]["upstream_http_filters"]
    moved.insert(0, {"name": "lua", "typed_config": lua})


def _inline_key(config: Config) -> None:
    common = _tls(config)["common_tls_context"]
    key = {"inline_string": "-----BEGIN PRIVATE KEY-----"}
    chain = {"inline_string": "-----BEGIN CERTIFICATE-----"}
    common["tls_certificates"] = [{"certificate_chain": chain, "private_key": key}]


INLINE_KEY: Final[Mistake] = _inline_key
"""Envoy refuses this key, since it is none."""


def _signs_inline(config: Config) -> None:
    key = {"access_key_id": "AKIA", "secret_access_key": "made up"}
    kind = f"{FILTERS}.aws_request_signing.v3.AwsRequestSigning"
    signing = {"@type": kind, "service_name": "bedrock", "region": "eu-central-1",
               "credential_provider": {"inline_credential": key}}  # fmt: skip
    _instead_of_injector({"name": "signing", "typed_config": signing})(config)


def _log(text: str) -> Config:
    kind = f"{_EXTENSIONS}.access_loggers.stream.v3.StdoutAccessLog"
    source = {"text_format_source": {"inline_string": text}}
    return {"name": "log", "typed_config": {"@type": kind, "log_format": source}}


def _logged(text: str) -> Mistake:
    return lambda config: hcm_of(config)["access_log"].append(_log(text))


def _logged_upstream(config: Config) -> None:
    router = hcm_of(config)["http_filters"][-1]["typed_config"]
    router["upstream_log"] = [_log("%REQ(AUTHORIZATION)%")]


def _logged_by_grpc(config: Config) -> None:
    kind = f"{_EXTENSIONS}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
    service = {"envoy_grpc": {"cluster_name": "egret"}}
    common = {"log_name": "a", "transport_api_version": "V3", "grpc_service": service}
    listed = {"additional_request_headers_to_log": ["x-api-key"]}
    typed = {"@type": kind, "common_config": common, **listed}
    hcm_of(config)["access_log"].append({"name": "grpc", "typed_config": typed})


def traced(*tags: Config) -> Mistake:
    """Return spans with these tags."""
    kind = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"
    service = {"envoy_grpc": {"cluster_name": "egret"}}
    typed = {"@type": kind, "service_name": "a", "grpc_service": service}
    provider = {"name": "otel", "typed_config": typed}
    return of_hcm(tracing={"provider": provider, "custom_tags": list(tags)})


URL: Final[Config] = {"tag": "http.url", "value": "%PATH(NQ)%"}


def _key_log(config: Config) -> None:
    _tls(config)["common_tls_context"]["key_log"] = {"path": "/tmp/keys"}  # noqa: S108 - never written


def _for_all_routes(max_stream_duration: str = "", **fields: Any) -> Mistake:
    """Return a mistake in the connection manager that no route overrides."""

    def mistake(config: Config) -> None:
        for route in host_of(config)["routes"]:
            route.get("route", {}).pop("idle_timeout", None)
            route.get("route", {}).pop("max_stream_duration", None)
            if "route" in route:
                route["route"]["timeout"] = "600s"
        if max_stream_duration:
            common = hcm_of(config)["common_http_protocol_options"]
            common["max_stream_duration"] = max_stream_duration
        hcm_of(config).update(fields)

    return mistake


def _retries(**policy: Any) -> Mistake:
    return of_route(retry_policy={"num_retries": 1, **policy})


def _typed_retries(config: Config) -> None:
    policy = route_of(config).pop("retry_policy")
    kind = "type.googleapis.com/envoy.config.route.v3.RetryPolicy"
    route_of(config)["retry_policy_typed_config"] = {"@type": kind, **policy, "retry_on": "5xx"}


def _by_original_destination(config: Config) -> None:
    provider = provider_of(config)
    del provider["load_assignment"], provider["cluster_type"]
    provider |= {"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    provider["original_dst_lb_config"] = {"use_http_header": True}


_MATCHERS: Final = "type.googleapis.com/envoy.type.matcher.v3"
BY_CLIENT: Final[Config] = {
    "@type": f"{_MATCHERS}.HttpRequestHeaderMatchInput", "header_name": "x-skip",
}  # fmt: skip
BY_METADATA: Final[Config] = {
    "@type": f"{_EXTENSIONS}.matching.common_inputs.network.v3.DynamicMetadataInput",
    "filter": "dev.kgateway.disable_ext_proc", "path": [{"key": "disable"}],
}  # fmt: skip


def _behind_a_matcher(config: Config) -> None:
    """Put Egret's filter behind a matcher that skips it, by a header of clients."""
    entry = ext_proc_filter_of(config)
    skip = {"@type": f"{_EXTENSIONS}.filters.common.matcher.action.v3.SkipFilter"}
    actions = {"1": {"action": {"name": "skip", "typed_config": skip}}}
    named = {"name": "header", "typed_config": BY_CLIENT}
    entry["typed_config"] = {
        "@type": f"{_EXTENSIONS}.common.matching.v3.ExtensionWithMatcher",
        "extension_config": {"name": entry["name"], "typed_config": entry["typed_config"]},
        "xds_matcher": {"matcher_tree": {"input": named, "exact_match_map": {"map": actions}}},
    }


def _in_a_composite_filter(chosen_by: Config, *, is_off: bool = False) -> Mistake:
    """Put Egret's filter into a composite, in the way of kgateway, and enable it on each route.

    With *is_off* one route has the filter by which kgateway switches all processors off.
    """

    def mistake(config: Config) -> None:
        entry = ext_proc_filter_of(config)
        inner = {"name": entry["name"], "typed_config": entry["typed_config"]}
        action = {"@type": f"{FILTERS}.composite.v3.ExecuteFilterAction", "typed_config": inner}
        is_set = {"value": {"bool_match": True}, "invert": True}
        kind = f"{_EXTENSIONS}.matching.input_matchers.metadata.v3.Metadata"
        matched = {"name": "m", "typed_config": {"@type": kind, **is_set}}
        by_metadata = chosen_by is BY_METADATA
        how = {"custom_match": matched} if by_metadata else {"value_match": {"exact": "0"}}
        predicate = {
            "single_predicate": {"input": {"name": "i", "typed_config": chosen_by}, **how}
        }
        then = {"action": {"name": "run", "typed_config": action}}
        composite = {"@type": f"{FILTERS}.composite.v3.Composite"}
        entry |= {
            "name": "ext_proc/egret/egret",
            "disabled": True,
            "typed_config": {
                "@type": f"{_EXTENSIONS}.common.matching.v3.ExtensionWithMatcher",
                "extension_config": {"name": "composite", "typed_config": composite},
                "xds_matcher": {
                    "matcher_list": {"matchers": [{"predicate": predicate, "on_match": then}]}
                },
            },
        }
        _enable("ext_proc/egret/egret")(config)
        if is_off:
            switch = {"@type": _SWITCH, "config": {}}
            host_of(config)["routes"][-1]["typed_per_filter_config"]["global_disable/ext_proc"] = (
                switch
            )

    return mistake


_SWITCH: Final = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def _enable(name: str, *, but_last: bool = False) -> Mistake:
    def mistake(config: Config) -> None:
        routes = [one for one in host_of(config)["routes"] if "route" in one]
        for route in routes[: -1 if but_last else None]:
            switch = {"@type": _SWITCH, "config": {}}
            route.setdefault("typed_per_filter_config", {})[name] = switch

    return mistake


def _enabled_by_routes(*, but_last: bool = False) -> Mistake:
    """Turn Egret's filter off, and on for routes, in the way of Envoy Gateway."""
    name = "envoy.filters.http.ext_proc/envoyextensionpolicy/llm/egret/extproc/0"

    def mistake(config: Config) -> None:
        ext_proc_filter_of(config).update(disabled=True, name=name)
        _enable(name, but_last=but_last)(config)

    return mistake


def _by_a_matching_specifier(*, is_named: bool) -> Mistake:
    """Let a plugin choose the cluster of a provider without TLS."""
    kind = f"{_EXTENSIONS}.router.cluster_specifiers.matcher.v3"
    chosen = {"@type": f"{kind}.ClusterAction", "cluster": "openai"}
    matcher = {"on_no_match": {"action": {"name": "choose", "typed_config": chosen}}}
    typed = {"@type": f"{kind}.MatcherClusterSpecifier", "cluster_matcher": matcher}
    plugin = {"extension": {"name": "by matcher", "typed_config": typed}}

    def mistake(config: Config) -> None:
        del provider_of(config)["transport_socket"]
        _plain(config)
        for route in host_of(config)["routes"]:
            if route.get("route", {}).pop("cluster", None) and not is_named:
                route["route"]["inline_cluster_specifier_plugin"] = plugin
            elif "route" in route:
                route["route"]["cluster_specifier_plugin"] = "by matcher"
        if is_named:
            hcm_of(config)["route_config"]["cluster_specifier_plugins"] = [plugin]

    return mistake


def _in_a_composite(config: Config) -> None:
    kind = f"{_EXTENSIONS}.clusters.composite.v3.ClusterConfig"
    typed = {"@type": kind, "clusters": [{"name": "openai"}]}
    config["static_resources"]["clusters"].append({
        "name": "any",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.composite", "typed_config": typed},
    })  # fmt: skip
    route_of(config)["cluster"] = "any"


def _also_open(config: Config) -> None:
    listener = listener_of(config)
    listener["address"]["socket_address"]["address"] = "127.0.0.1"
    del listener["filter_chains"][0]["transport_socket"]
    address = {"socket_address": {"address": "192.0.2.1", "port_value": 8444}}
    listener["additional_addresses"] = [{"address": address}]


def _admin(address: str, *paths: str) -> Mistake:
    def mistake(config: Config) -> None:
        place = {"socket_address": {"address": address, "port_value": 9901}}
        config["admin"]["address"] = place
        group = cluster_of(config, "admin")["load_assignment"]["endpoints"][0]
        group["lb_endpoints"] = [{"endpoint": {"address": place}}]
        if paths:
            config["admin"]["allow_paths"] = [{"exact": path} for path in paths]

    return mistake


def _to_the_admin_by_name(config: Config) -> None:
    """Lead all paths to the admin, by another name of this machine."""
    _admin("127.0.0.1")(config)
    admin = cluster_of(config, "admin")
    admin["type"] = "STRICT_DNS"
    place = {"socket_address": {"address": "localhost", "port_value": 9901}}
    admin["load_assignment"]["endpoints"][0]["lb_endpoints"] = [{"endpoint": {"address": place}}]
    manager = config["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]
    routes = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    routes[0]["match"] = {"prefix": "/"}


def _addresses(kind: str, **fields: Any) -> Mistake:
    typed = {"@type": f"{_EXTENSIONS}.http.original_ip_detection.{kind}", **fields}
    detection = [{"name": "address", "typed_config": typed}]
    return of_hcm(use_remote_address=False, original_ip_detection_extensions=detection)


def _with_certificates(*, is_removed: bool) -> Mistake:
    def mistake(config: Config) -> None:
        hcm_of(config)["forward_client_cert_details"] = "APPEND_FORWARD"
        if not is_removed:
            host_of(config)["request_headers_to_remove"].remove("x-forwarded-client-cert")

    return mistake


_FORWARDED: Final = {"cidrs": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}
_AUTHZ: Final[Config] = {
    "@type": f"{FILTERS}.ext_authz.v3.ExtAuthz",
    "transport_api_version": "V3",
    "grpc_service": {"envoy_grpc": {"cluster_name": "egret"}},
}
_MODEL: Final[Config] = {"metadata_namespace": "models", "key": "model"}

FORMS: Final[dict[str, tuple[Mistake, set[str]]]] = {
    "a certificate's name below a top-level domain": (_named(suffix=".com"), {"EGR303"}),
    "a certificate's name that only ends alike": (_named(suffix="openai.com"), {"EGR303"}),
    "a certificate's name that begins alike": (_named(prefix="api.openai"), {"EGR303"}),
    "a certificate's name that contains a text": (_named(contains="openai"), {"EGR303"}),
    "any name": (_named(safe_regex={"regex": ".*"}), {"EGR303"}),
    "any name beside a CA from a secret": (_ca_from_a_secret(), {"EGR303"}),
    "clients' certificates": (_with_certificates(is_removed=False), {"EGR515"}),
    "TLS for a part of the endpoints": (_plain_for_some, {"EGR301"}),
    "workers by TLS without a CA": (_workers_by_tls(), {"EGR302", "EGR303"}),
    "workers by TLS with any name": (_workers_by_tls(trusted_ca=_CA), {"EGR303"}),
    "too few frames to workers": (_to_workers(is_old=False), {"EGR216"}),
    "too few frames to workers in the old field": (_to_workers(is_old=True), {"EGR216"}),
    "a key in a filter of the cluster": (
        _instead_of_injector(_writes("authorization", "Bearer sk-1")), {"EGR310"},
    ),
    "a key in a filter of the listener": (
        lambda config: hcm_of(config)["http_filters"].insert(-1, _writes("x-api-key", "sk-1")),
        {"EGR310"},
    ),
    "a key for a share of requests": (_for_a_share, {"EGR310"}),
    "Google's key in a route": (
        lambda config: host_of(config)["routes"][-1].update(
            request_headers_to_add=[_header("x-goog-api-key", "AIza")]
        ), {"EGR310"},
    ),
    "a copy of the client's key in a filter": (
        with_filter("copy", 0, _writes("x-copy", "%REQ(X-API-KEY)%")["typed_config"]), {"EGR534"},
    ),
    "a copy of the provider's key by the cluster": (
        lambda config: options_of(provider_of(config))["http_filters"].insert(
            1, _writes("x-copy", "%REQ(AUTHORIZATION)%")
        ), {"EGR534"},
    ),
    "a key in metadata": (
        with_filter("metadata", 0, {
            "@type": f"{FILTERS}.header_to_metadata.v3.Config",
            "request_rules": [{
                "header": "Authorization",
                "on_header_present": {"metadata_namespace": "own", "key": "k"},
            }],
        }), {"EGR534"},
    ),
    "a key that a script reads": (
        with_filter("lua", 0, {"@type": f"{FILTERS}.lua.v3.Lua", "default_source_code": {
            "inline_string": "function envoy_on_request(handle)\n"
            "  handle:logInfo(handle:headers():get('Authorization'))\nend\n"
        }}), {"EGR503", "EGR534"},
    ),
    "an inline key of AWS": (_signs_inline, {"EGR309"}),
    "lua among the router's filters": (_lua_by_the_router, {"EGR526"}),
    "a key where another header is missing": (_logged("%REQ(X-USER?X-API-KEY)%"), {"EGR516"}),
    "a key in the long name of the operator": (
        _logged("%REQUEST_HEADER(AUTHORIZATION)%"), {"EGR516"},
    ),
    "a key of a proxy": (_logged("%REQ(PROXY-AUTHORIZATION):20%"), {"EGR516"}),
    "a key in the log of tries": (_logged_upstream, {"EGR516"}),
    "a key in a gRPC log": (_logged_by_grpc, {"EGR516"}),
    "a key as a tag": (
        traced(URL, {"tag": "key", "request_header": {"name": "Authorization"}}), {"EGR516"},
    ),
    "a key in a tag's format": (
        traced(URL, {"tag": "key", "value": "%REQ(X-API-KEY)%"}), {"EGR516"},
    ),
    "spans with the query": (traced(), {"EGR517"}),
    "a tap of a socket": (_wrapped("tap.v3.Tap", **_TAP), {"EGR533"}),
    "a file of TLS keys": (_key_log, {"EGR533"}),
    "an answer's limit on a route": (
        of_route(max_stream_duration={"max_stream_duration": "20s"}), {"EGR401"},
    ),
    "an answer's limit of all routes": (
        _for_all_routes(max_stream_duration="20s"), {"EGR401"},
    ),
    "an answer's limit of a cluster": (
        lambda config: options_of(provider_of(config))["common_http_protocol_options"].update(
            max_stream_duration="20s"
        ), {"EGR401"},
    ),
    "a silence's limit of all routes": (_for_all_routes(stream_idle_timeout="20s"), {"EGR402"}),
    "no limit of silence on a route": (of_route(idle_timeout="0s"), {"EGR510"}),
    "a retry of an answer that may have begun": (
        _retries(retry_on="retriable-status-codes", retriable_status_codes=[429, 502]), {"EGR404"},
    ),
    "hedging": (of_route(hedge_policy={"hedge_on_per_try_timeout": True}), {"EGR404"}),
    "a typed policy of retries": (_typed_retries, {"EGR404"}),
    "the server by a header": (_by_original_destination, {"EGR417"}),
    "Egret's filter behind a matcher": (_behind_a_matcher, {"EGR123"}),
    "Egret's filter in a composite, by a header": (
        _in_a_composite_filter(BY_CLIENT), {"EGR123"},
    ),
    "Egret's filter in a composite, off on a route": (
        _in_a_composite_filter(BY_METADATA, is_off=True), {"EGR123"},
    ),
    "a route that does not enable Egret's filter": (
        _enabled_by_routes(but_last=True), {"EGR126"},
    ),
    "another list of attributes on a route": (
        lambda config: per_route(config, {"overrides": {"request_attributes": ["request.path"]}}),
        {"EGR128"},
    ),
    "a plugin's cluster": (_by_a_matching_specifier(is_named=False), {"EGR301"}),
    "a named plugin's cluster": (_by_a_matching_specifier(is_named=True), {"EGR301"}),
    "a socket without TLS, by name": (
        lambda config: listener_of(config)["filter_chains"][0].update(transport_socket=RAW),
        {"EGR514"},
    ),
    "a further address": (_also_open, {"EGR514"}),
    "the admin by another name": (_to_the_admin_by_name, {"EGR523"}),
    "an address in a header of any name": (
        _addresses("custom_header.v3.CustomHeaderConfig", header_name="x-real-ip"), {"EGR508"},
    ),
    "authorization by the body": (
        with_filter("authz", 0, {**_AUTHZ, "with_request_body": {"max_request_bytes": 1_000_000}}),
        {"EGR503"},
    ),
    "metadata from the body": (
        with_filter("model", 0, {
            "@type": f"{FILTERS}.json_to_metadata.v3.JsonToMetadata",
            "request_rules": {"rules": [{"selectors": [{"key": "model"}], "on_present": _MODEL}]},
        }), {"EGR503"},
    ),
}  # fmt: skip
"""Each mistake with the rules that it breaks; Envoy starts with all of them."""


RIGHT: Final[dict[str, Mistake]] = {
    "a certificate's name below the provider's": _named(suffix=".openai.com"),
    "a certificate's name by an expression": _named(safe_regex={"regex": r".*\.openai\.com"}),
    "Egret's filter on each route": _enabled_by_routes(),
    "Egret's filter in a composite": _in_a_composite_filter(BY_METADATA),
    "members of a composite": _in_a_composite,
    "a pinned key without a CA": _validation(
        trusted_ca=None, match_typed_subject_alt_names=None,
        verify_certificate_spki=["47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="],
    ),
    "a name beside a CA from a secret": _ca_from_a_secret(
        match_typed_subject_alt_names=[{"san_type": "DNS", "matcher": {"exact": "api.openai.com"}}]
    ),
    "clients' certificates that no provider receives": _with_certificates(is_removed=True),
    "TLS by a proxy": _wrapped("http_11_proxy.v3.Http11ProxyUpstreamTransport"),
    "TLS behind the proxy protocol": _wrapped(
        "proxy_protocol.v3.ProxyProtocolUpstreamTransport", config={"version": "V2"}
    ),
    "QUIC": _by_quic,
    "workers by TLS": _workers_by_tls(trusted_ca=_CA, match_typed_subject_alt_names=_OF_EGRET),
    "a key under another name that Egret reads": with_filter(
        "name", 0, _writes("authorization", "Bearer %REQ(API-KEY)%")["typed_config"]
    ),
    "a key from the environment": _instead_of_injector(
        _writes("authorization", "Bearer %ENVIRONMENT(OPENAI_API_KEY)%")
    ),
    "spans without the query": traced(URL),
    "a limit of silence that each route overrides": of_hcm(stream_idle_timeout="20s"),
    "a retry of an answer that has not begun": _retries(
        retry_on="retriable-status-codes", retriable_status_codes=[429, 503, 529]
    ),
    "authorization by headers": with_filter("authz", 0, _AUTHZ),
    "addresses by known proxies": _addresses("xff.v3.XffConfig", xff_trusted_cidrs=_FORWARDED),
    "an admin with its numbers alone": _admin("192.0.2.1", "/stats/prometheus", "/ready"),
}  # fmt: skip
"""Forms without a mistake."""
