"""Mistakes that can be made in an Envoy configuration, one a rule of the lint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

from tests.support.configurations.build import web
from tests.support.envoy_forms import TAP, with_shared_injector
from tests.support.envoy_routes import EARLY, by_choice, by_cluster_header, by_model
from tests.support.own_envoy import (
    DUPLEX,
    FILTERS,
    Config,
    Mistake,
    beside,
    cluster_of,
    ext_proc_filter_of,
    ext_proc_of,
    hcm_of,
    host_of,
    is_ext_proc,
    listener_of,
    options_of,
    per_route,
    processor,
    provider_of,
    route_of,
    sends_every_body,
    with_filter,
)
from tests.support.ways_around_egret import HEADER_TO_METADATA

LONG_PATH: Final = f"/run/{'x' * 110}/worker-0.sock"


def _metrics_route(config: Config) -> Any:
    manager = config["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]
    return manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]


def _open_admin(config: Config) -> None:
    address = {"socket_address": {"address": "192.0.2.1", "port_value": 9901}}
    config["admin"]["address"] = address
    group = cluster_of(config, "admin")["load_assignment"]["endpoints"][0]
    group["lb_endpoints"] = [{"endpoint": {"address": address}}]


def _without_path(config: Config) -> None:
    allowed = ext_proc_of(config)["mutation_rules"]["allow_expression"]
    allowed["regex"] = allowed["regex"].removeprefix(":path|")


def _ai_filter(config: Config) -> Any:
    return next(
        one["typed_config"]
        for one in hcm_of(config)["http_filters"]
        if "ai_protocol" in one["name"]
    )


def _workers(config: Config) -> Any:
    return cluster_of(config, "egret")


def _worker_http2(config: Config) -> Any:
    return options_of(_workers(config))["explicit_http_config"]["http2_protocol_options"]


def _tls(config: Config) -> Any:
    return provider_of(config)["transport_socket"]["typed_config"]


def _injector(config: Config) -> Any:
    filters = options_of(provider_of(config))["http_filters"]
    return next(one["typed_config"] for one in filters if "credential_injector" in one["name"])


def _put(find: Callable[[Config], Any], *steps: str | int, value: Any) -> Mistake:
    """Return a mistake that sets something."""

    def mistake(config: Config) -> None:
        place = find(config)
        for step in steps[:-1]:
            place = place[step]
        place[steps[-1]] = value

    return mistake


def _drop(find: Callable[[Config], Any], *steps: str | int) -> Mistake:
    """Return a mistake that leaves something out."""

    def mistake(config: Config) -> None:
        place = find(config)
        for step in steps[:-1]:
            place = place[step]
        del place[steps[-1]]

    return mistake


def _unguard(config: Config) -> None:
    second = copy.deepcopy(listener_of(config))
    second["name"] = "second"
    second["address"]["socket_address"]["port_value"] = 9443
    manager = second["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [one for one in manager["http_filters"] if not is_ext_proc(one)]
    config["static_resources"]["listeners"].append(second)


def _read_first(config: Config) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"
    buffer = {"@type": kind, "max_request_bytes": 1000}
    hcm_of(config)["http_filters"].insert(
        0, {"name": "envoy.filters.http.buffer", "typed_config": buffer}
    )


def with_processor_at_provider(config: Config) -> None:
    """Add a processor of headers to the filters of a provider's cluster."""
    one = {"name": "second", "typed_config": processor(request_body_mode="NONE")}
    options_of(provider_of(config))["http_filters"].insert(0, one)


_SORRY: Final[Config] = {
    "filter": {"status_code_filter": {"comparison": {
        "op": "GE", "value": {"default_value": 400, "runtime_key": "sorry"},
    }}},
    "status_code": 503,
    "body": {"inline_string": "sorry"},
}  # fmt: skip


def with_replies_of_its_own(config: Config) -> None:
    """Change Envoy's own replies, and a header of all."""
    hcm_of(config)["local_reply_config"] = {"mappers": [
        {**_SORRY, "filter": {"response_flag_filter": {"flags": ["UH", "UF", "UT"]}}},
        {"filter": _SORRY["filter"], "headers_to_add": [
            {"header": {"key": "x-gateway", "value": "llm"}},
        ]},
    ]}  # fmt: skip


WASM: Final[Config] = {
    "@type": f"{FILTERS}.wasm.v3.Wasm",
    "config": {"name": "w", "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"remote": {
        "http_uri": {"uri": "https://wasm.example/w", "cluster": "openai", "timeout": "5s"},
        "sha256": "0" * 64,
    }}}},
}  # fmt: skip


def _sign_first(config: Config) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters.http.aws_request_signing.v3"
    signing = {
        "@type": f"{kind}.AwsRequestSigning", "service_name": "bedrock", "region": "eu-central-1",
        "credential_provider": {"environment_credential_provider": {}},
    }  # fmt: skip
    hcm_of(config)["http_filters"].insert(
        1, {"name": "envoy.filters.http.aws_request_signing", "typed_config": signing}
    )


def _move_retry(config: Config) -> None:
    service = ext_proc_of(config)["grpc_service"]
    service["envoy_grpc"]["retry_policy"] = {"num_retries": 1}


def _google_grpc(config: Config) -> None:
    service = ext_proc_of(config)["grpc_service"]
    del service["envoy_grpc"]
    service["google_grpc"] = {"target_uri": "unix:/run/egret/w-0.sock", "stat_prefix": "egret"}


def _share_socket(config: Config) -> None:
    endpoints = _workers(config)["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoints[1] = copy.deepcopy(endpoints[0])


def _no_tls(config: Config) -> None:
    provider = provider_of(config)
    del provider["transport_socket"]
    options = options_of(provider)
    del options["auto_config"]  # which wants TLS to agree on the protocol
    options["explicit_http_config"] = {"http_protocol_options": {}}


def _inline_secret(config: Config) -> None:
    secret = {"name": "key", "generic_secret": {"secret": {"inline_string": "Bearer sk-1"}}}
    config["static_resources"]["secrets"] = [secret]


def _key_in_route(config: Config) -> None:
    header = {"key": "authorization", "value": "Bearer sk-1"}
    host_of(config)["request_headers_to_add"] = [{"header": header}]


def _limits_of_provider(config: Config) -> None:
    filters = options_of(provider_of(config))["http_filters"]
    mutations = next(one for one in filters if "header_mutation" in one["name"])["typed_config"]
    kept = [one for one in mutations["mutations"]["response_mutations"] if "append" in one]
    mutations["mutations"]["response_mutations"] = kept


def _workers_by_tcp(config: Config) -> None:
    address = {"socket_address": {"address": "10.0.0.5", "port_value": 50051}}
    _workers(config)["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": address}}
    ]


def _log_format(config: Config) -> Any:
    return hcm_of(config)["access_log"][0]["typed_config"]["log_format"]["json_format"]


_REMOVED = "request_headers_to_remove"


def _keep(name: str) -> Mistake:
    def mistake(config: Config) -> None:
        host_of(config)[_REMOVED].remove(name)

    return mistake


def _send_every_body_with_retries(config: Config) -> None:
    policy = route_of(config)["retry_policy"]
    sends_every_body(config)
    route_of(config)["retry_policy"] = policy


def _ask_for_bodies(config: Config) -> None:
    ext_proc_of(config)["processing_mode"]["request_body_mode"] = "NONE"


def _buffer_with_upgrades(config: Config) -> None:
    ext_proc_of(config)["processing_mode"]["request_body_mode"] = "BUFFERED"
    hcm_of(config)["upgrade_configs"] = [{"upgrade_type": "websocket"}]


def _switch_filter_by_model(config: Config) -> None:
    switch = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    host_of(config)["routes"][0]["typed_per_filter_config"] = {"lua": switch}


def _forward_anywhere(config: Config) -> None:
    """Let the client's Host name the server of a provider's cluster, on one route."""
    cache = {"name": "hosts", "dns_lookup_family": "V4_ONLY"}
    kind = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"
    settings = {"@type": f"type.googleapis.com/{kind}", "dns_cache_config": cache}
    config["static_resources"]["clusters"].append({
        "name": "any_host",
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy", "typed_config": settings,
        },
        "transport_socket": copy.deepcopy(provider_of(config)["transport_socket"]),
        "typed_extension_protocol_options": copy.deepcopy(
            provider_of(config)["typed_extension_protocol_options"]
        ),
    })  # fmt: skip
    options_of(cluster_of(config, "any_host"))["upstream_http_protocol_options"] = {
        "auto_sni": True, "auto_san_validation": True,
    }  # fmt: skip
    proxy = {"@type": f"{FILTERS}.dynamic_forward_proxy.v3.FilterConfig"}
    with_filter("hosts", -1, proxy | {"dns_cache_config": cache})(config)
    route = route_of(config)
    route["cluster"] = "any_host"
    del route["host_rewrite_literal"]


MISTAKES: Final[dict[str, Mistake]] = {
    "EGR101": _put(ext_proc_of, "failure_mode_allow", value=True),
    "EGR102": _drop(ext_proc_of, "message_timeout"),
    "EGR103": _drop(ext_proc_of, "allow_mode_override"),
    "EGR104": _put(ext_proc_of, "processing_mode", "request_header_mode", value="SKIP"),
    "EGR105": _put(ext_proc_of, "processing_mode", "request_body_mode", value="STREAMED"),
    "EGR106": _put(ext_proc_of, "processing_mode", "request_body_mode", value=DUPLEX),
    "EGR107": _put(ext_proc_of, "processing_mode", "response_header_mode", value="SEND"),
    "EGR108": _put(ext_proc_of, "processing_mode", "response_body_mode", value="BUFFERED"),
    "EGR109": _drop(ext_proc_of, "metadata_options"),
    "EGR110": _drop(ext_proc_of, "mutation_rules", "disallow_is_error"),
    "EGR111": _put(
        ext_proc_of, "mutation_rules", "allow_expression", value={"regex": ":path|x-egret-.*"}
    ),
    "EGR112": _put(ext_proc_of, "emit_client_span", value=False),
    "EGR113": _put(ext_proc_of, "observability_mode", value=True),
    "EGR114": _put(ext_proc_of, "disable_immediate_response", value=True),
    "EGR115": _put(ext_proc_of, "send_body_without_waiting_for_header_response", value=True),
    "EGR116": _drop(ext_proc_of, "grpc_service", "retry_policy"),
    "EGR117": _drop(ext_proc_of, "grpc_service", "retry_policy", "retry_host_predicate"),
    "EGR118": _put(
        ext_proc_of, "grpc_service", "retry_policy", "retry_on", value="deadline-exceeded"
    ),
    "EGR119": _move_retry,
    "EGR120": _google_grpc,
    "EGR121": _put(ext_proc_of, "grpc_service", "timeout", value="5s"),
    "EGR122": _drop(ext_proc_of, "grpc_service", "envoy_grpc", "skip_envoy_headers"),
    "EGR123": lambda config: per_route(config, {"disabled": True}),
    "EGR124": lambda config: per_route(config, {"overrides": {"failure_mode_allow": True}}),
    "EGR125": lambda config: per_route(
        config, {"overrides": {"processing_mode": {"request_body_mode": "BUFFERED"}}}
    ),
    "EGR126": lambda config: ext_proc_filter_of(config).update(disabled=True),
    "EGR138": lambda config: per_route(
        config, {"overrides": {"grpc_service": {"envoy_grpc": {"cluster_name": "openai"}}}}
    ),
    "EGR136": _without_path,
    "EGR137": _put(
        ext_proc_of,
        "forward_rules",
        value={"allowed_headers": {"patterns": [{"exact": "authorization"}, {"prefix": "x-"}]}},
    ),
    "EGR127": _drop(ext_proc_of, "allow_content_length_header"),
    "EGR128": _drop(ext_proc_of, "request_attributes"),
    "EGR129": _put(ext_proc_of, "processing_mode", "request_body_mode", value="BUFFERED"),
    "EGR130": by_model(_put(ext_proc_of, "disable_clear_route_cache", value=True)),
    "EGR131": _put(
        ext_proc_of, "grpc_service", "initial_metadata", 0, "value", value="%FILTER_STAT(a)%"
    ),
    "EGR132": _put(
        ext_proc_of, "allowed_override_modes", value=[{"request_body_mode": "BUFFERED"}]
    ),
    "EGR133": _drop(ext_proc_of, "stat_prefix"),
    "EGR201": _put(_workers, "name", value="other"),
    "EGR202": _drop(_workers, "typed_extension_protocol_options"),
    "EGR203": _put(_workers, "connect_timeout", value="5s"),
    "EGR204": _drop(_workers, "circuit_breakers"),
    "EGR205": _drop(_workers, "health_checks"),
    "EGR206": _drop(_workers, "common_lb_config", "healthy_panic_threshold"),
    "EGR207": _drop(_workers, "outlier_detection"),
    "EGR208": _put(_workers, "lb_policy", value="ROUND_ROBIN"),
    "EGR209": _put(
        _workers, "load_assignment", "endpoints", 0, "lb_endpoints", 0, "endpoint", "address",
        "pipe", "path", value=LONG_PATH,
    ),
    "EGR210": _share_socket,
    "EGR211": _workers_by_tcp,
    "EGR212": _put(_worker_http2, "initial_stream_window_size", value=65536),
    "EGR213": _put(
        _worker_http2, "connection_keepalive", value={"interval": "0.5s", "timeout": "1s"}
    ),
    "EGR214": lambda config: config["layered_runtime"]["layers"][0]["static_layer"].pop(
        "envoy.reloadable_features.ext_proc_graceful_grpc_close"
    ),
    "EGR215": _drop(_workers, "common_lb_config", "update_merge_window"),
    "EGR216": _drop(_worker_http2, "max_outbound_frames"),
    "EGR301": _no_tls,
    "EGR302": _put(
        _tls, "common_tls_context", "validation_context", "trust_chain_verification",
        value="ACCEPT_UNTRUSTED",
    ),
    "EGR303": _drop(
        _tls, "common_tls_context", "validation_context", "match_typed_subject_alt_names"
    ),
    "EGR304": _drop(_tls, "sni"),
    "EGR305": _put(
        _tls, "common_tls_context", "tls_params", "tls_minimum_protocol_version", value="TLSv1_0"
    ),
    "EGR306": lambda config: options_of(provider_of(config)).update(
        http_filters=options_of(provider_of(config))["http_filters"][1:]
    ),
    "EGR307": _put(_injector, "overwrite", value=False),
    "EGR308": _put(_injector, "allow_request_without_credential", value=True),
    "EGR309": _inline_secret,
    "EGR310": _key_in_route,
    "EGR311": _limits_of_provider,
    "EGR312": _forward_anywhere,
    "EGR313": _put(
        _tls, "common_tls_context", "validation_context", "allow_expired_certificate", value=True
    ),
    "EGR314": with_shared_injector,
    "EGR401": _drop(route_of, "timeout"),
    "EGR402": _put(route_of, "idle_timeout", value="10s"),
    "EGR403": _drop(route_of, "max_stream_duration"),
    "EGR404": _put(route_of, "retry_policy", "retry_on", value="5xx"),
    "EGR405": _put(route_of, "retry_policy", "per_try_timeout", value="20s"),
    "EGR406": _put(hcm_of, "upgrade_configs", value=[{"upgrade_type": "websocket"}]),
    "EGR407": _keep("x-api-key"),
    "EGR408": _keep("traceparent"),
    "EGR409": _drop(route_of, "host_rewrite_literal"),
    "EGR410": by_model(_drop(hcm_of, EARLY)),
    "EGR411": by_model(_keep("x-egret-model")),
    "EGR413": _send_every_body_with_retries,
    "EGR414": by_model(_switch_filter_by_model),
    "EGR415": by_choice(refused="/v1/chat"),
    "EGR416": by_choice(excludes=False),
    "EGR417": by_cluster_header(),
    "EGR418": _put(route_of, "request_mirror_policies", value=[{"cluster": "anthropic"}]),
    "EGR501": lambda config: hcm_of(config).update(
        http_filters=hcm_of(config)["http_filters"][-1:]
    ),
    "EGR502": _unguard,
    "EGR503": _read_first,
    "EGR504": _drop(hcm_of, "normalize_path"),
    "EGR505": _drop(hcm_of, "merge_slashes"),
    "EGR506": _drop(hcm_of, "path_with_escaped_slashes_action"),
    "EGR507": _drop(hcm_of, "common_http_protocol_options", "headers_with_underscores_action"),
    "EGR508": _drop(hcm_of, "use_remote_address"),
    "EGR509": _drop(hcm_of, "request_headers_timeout"),
    "EGR510": _put(hcm_of, "stream_idle_timeout", value="0s"),
    "EGR511": _put(hcm_of, "preserve_external_request_id", value=True),
    "EGR512": _drop(hcm_of, "http2_protocol_options", "max_concurrent_streams"),
    "EGR513": _drop(listener_of, "per_connection_buffer_limit_bytes"),
    "EGR514": lambda config: listener_of(config)["filter_chains"][0].pop("transport_socket"),
    "EGR515": _drop(hcm_of, "skip_xff_append"),
    "EGR516": _put(_log_format, "credential", value="%REQ(AUTHORIZATION)%"),
    "EGR517": _put(_log_format, "path", value="%REQ(:PATH)%"),
    "EGR518": _drop(_log_format, "egret"),
    "EGR528": _put(_log_format, "route", value="%ROUTE%"),
    "EGR519": _open_admin,
    "EGR530": _put(hcm_of, "local_reply_config", value={"mappers": [_SORRY]}),
    "EGR520": _drop(lambda config: config, "overload_manager"),
    "EGR521": _sign_first,
    "EGR523": _put(_metrics_route, "match", value={"prefix": "/"}),
    "EGR526": with_filter("later", -1, processor(request_body_mode="BUFFERED")),
    "EGR529": lambda config: _ai_filter(config)["response_handling"]["token_usage"].update(
        usage_signal="SYNTHESIZE_TRAILERS"
    ),
    "EGR527": with_filter("mcp", 0, {"@type": f"{FILTERS}.mcp.v3.Mcp"}),
    "EGR531": with_filter("by header", 0, HEADER_TO_METADATA),
    "EGR533": with_filter("tap", 0, TAP),
    "EGR534": _put(host_of, "response_headers_to_add", value=[
        {"header": {"key": "x-copy", "value": "%REQ(authorization)%"}}
    ]),
    "EGR535": beside(web()),
    "EGR532": with_filter("cache", 0, {
        "@type": f"{FILTERS}.cache.v3.CacheConfig",
        "typed_config": {"@type": "type.googleapis.com/"
            "envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig"},
    }),
}  # fmt: skip
"""One mistake a rule."""

_STREAMING: Final = processor(request_body_mode=DUPLEX, response_body_mode=DUPLEX)

OLDER_MISTAKES: Final[dict[str, tuple[int, Mistake | None, frozenset[str]]]] = {
    "EGR134": (36, None, frozenset()),
    "EGR135": (39, None, frozenset()),
    "EGR412": (40, _buffer_with_upgrades, frozenset({"EGR129", "EGR406"})),
    "EGR522": (39, _ask_for_bodies, frozenset()),
    "EGR524": (38, with_filter("other", 0, _STREAMING), frozenset({"EGR503"})),
    "EGR525": (39, with_filter("wasm", 0, WASM), frozenset({"EGR503"})),
}
"""Of rules that another rule's mistake comes with, or an older Envoy: its minor version, the
mistake in the configuration for it (None: the version itself), and the rules found with it."""

REFUSED_BY_ENVOY: Final = frozenset({"EGR106", "EGR202", "EGR209", "EGR528"})
"""What Envoy itself does not start with; all else it takes without a word."""
