"""Configurations that Envoy takes, in the manner of its own examples and of gateways."""

from __future__ import annotations

from typing import Final

from tests.support.configurations.build import (
    EVERYTHING,
    Part,
    cluster,
    ext_proc,
    hosts,
    http2,
    http_filter,
    json_of,
    listener,
    manager,
    named,
    socket,
    static,
    tcp_proxy,
    typed,
    web,
    yaml_of,
)

_ADS: Final[Part] = {
    "api_type": "GRPC",
    "transport_api_version": "V3",
    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds_cluster"}}],
}
_TLS_UPSTREAM: Final = named(
    "envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext", sni="example.com"
)
_RAW: Final = named(
    "envoy.transport_sockets.raw_buffer", "transport_sockets.raw_buffer.v3.RawBuffer"
)
_SDS: Final[Part] = {
    "tls_certificate_sds_secret_configs": [
        {"name": "server", "sds_config": {"resource_api_version": "V3", "api_config_source": _ADS}}
    ]
}
_TLS_SERVER: Final = named(
    "envoy.transport_sockets.tls",
    "transport_sockets.tls.v3.DownstreamTlsContext",
    common_tls_context=_SDS,
)
_STDOUT: Final = named("envoy.access_loggers.stdout", "access_loggers.stream.v3.StdoutAccessLog")


def _compressor(kind: str, **fields: object) -> Part:
    library = named("compression", f"compression.{kind}", **fields)
    return http_filter("compressor.v3.Compressor", compressor_library=library)


_OAUTH2: Final = http_filter(
    "oauth2.v3.OAuth2",
    config={
        "token_endpoint": {"cluster": "service", "uri": "https://auth.example.com/token",
                           "timeout": "3s"},
        "authorization_endpoint": "https://auth.example.com/authorize",
        "redirect_uri": "%REQ(x-forwarded-proto)%://%REQ(:authority)%/callback",
        "redirect_path_matcher": {"path": {"exact": "/callback"}},
        "signout_path": {"path": {"exact": "/signout"}},
        "forward_bearer_token": True,
        "credentials": {
            "client_id": "app",
            "token_secret": {"name": "token"},
            "hmac_secret": {"name": "hmac"},
        },
        "auth_scopes": ["user", "openid"],
    },
)  # fmt: skip
_SECRETS: Final = [
    {"name": name, "generic_secret": {"secret": {"inline_string": "not-a-secret"}}}
    for name in ("token", "hmac")
]
_JWT: Final = http_filter(
    "jwt_authn.v3.JwtAuthentication",
    providers={
        "example": {
            "issuer": "https://example.com",
            "audiences": ["api"],
            "remote_jwks": {
                "http_uri": {"uri": "https://example.com/jwks", "cluster": "service",
                             "timeout": "1s"},
                "cache_duration": {"seconds": 300},
            },
        }
    },
    rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "example"}}],
)  # fmt: skip
_RBAC: Final = http_filter(
    "rbac.v3.RBAC",
    rules={
        "action": "allow",
        "policies": {
            "readers": {
                "permissions": [{"header": {"name": ":method", "string_match": {"exact": "GET"}}}],
                "principals": [{"any": True}],
            }
        },
    },
)
_LOCAL_LIMIT: Final = http_filter(
    "local_ratelimit.v3.LocalRateLimit",
    stat_prefix="limiter",
    token_bucket={"max_tokens": 100, "tokens_per_fill": 100, "fill_interval": "60s"},
    filter_enabled={"default_value": {"numerator": 100, "denominator": "hundred"}},
    filter_enforced={"default_value": {"numerator": 100, "denominator": "HUNDRED"}},
)
_GLOBAL_LIMIT: Final = http_filter(
    "ratelimit.v3.RateLimit",
    domain="apis",
    failure_mode_deny=False,
    rate_limit_service={
        "grpc_service": {"envoy_grpc": {"cluster_name": "limits"}},
        "transport_api_version": "v3",
    },
)
_FAULT: Final = http_filter(
    "fault.v3.HTTPFault",
    abort={"http_status": 503, "percentage": {"numerator": 10, "denominator": "TEN_THOUSAND"}},
    delay={"fixed_delay": "3s", "percentage": {"numerator": 0}},
)
_LUA: Final = http_filter(
    "lua.v3.Lua",
    default_source_code={
        "inline_string": "function envoy_on_request(h)\n  local t = {{a=1}, {b=2}}\nend\n"
    },
)
_EXT_AUTHZ_GRPC: Final = http_filter(
    "ext_authz.v3.ExtAuthz",
    grpc_service={"envoy_grpc": {"cluster_name": "auth"}, "timeout": "0.250s"},
    transport_api_version="V3",
)
_EXT_AUTHZ_HTTP: Final = http_filter(
    "ext_authz.v3.ExtAuthz",
    http_service={
        "server_uri": {"uri": "127.0.0.1:9000", "cluster": "auth", "timeout": "0.25s"},
        "authorization_request": {"allowed_headers": {"patterns": [{"prefix": "x-"}]}},
    },
)
_FORWARD_CACHE: Final[Part] = {"name": "cache", "dns_lookup_family": "v4_only"}
_OTEL: Final[Part] = {
    "provider": {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "0.25s"},
            "service_name": "front-envoy",
        },
    },
    "random_sampling": {"value": 50},
}
_ZIPKIN: Final[Part] = {
    "provider": {
        "name": "envoy.tracers.zipkin",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
            "collector_cluster": "service",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "http_json",
        },
    }
}
_CANARY: Final[Part] = {
    "match": {"prefix": "/"},
    "route": {
        "weighted_clusters": {
            "clusters": [{"name": "service", "weight": 90}, {"name": "canary", "weight": "10"}]
        }
    },
}
_MIRROR: Final[Part] = {
    "match": {"prefix": "/"},
    "route": {
        "cluster": "service",
        "request_mirror_policies": [
            {"cluster": "canary", "runtime_fraction": {"default_value": {"numerator": 50}}}
        ],
    },
}


ENVOY: Final[dict[str, Part]] = {
    "front proxy": static(
        listener(manager(
            codec_type="auto",
            route_config=hosts(
                {"match": {"prefix": "/service/1"}, "route": {"cluster": "service1"}},
                {"match": {"prefix": "/service/2"}, "route": {"cluster": "service2"}},
            ),
        )),
        clusters=(cluster("service1", host="service1"), cluster("service2", host="service2")),
        admin={"address": socket(8001)},
    ),
    "gzip": web(_compressor("gzip.compressor.v3.Gzip", memory_level=3,
                            compression_level="best_compression")),
    "brotli": web(_compressor("brotli.compressor.v3.Brotli", window_bits=10)),
    "zstd": web(_compressor("zstd.compressor.v3.Zstd", compression_level=3)),
    "cache": web(http_filter("cache.v3.CacheConfig",
                             typed_config=typed("http.cache.simple_http_cache.v3."
                                                "SimpleHttpCacheConfig"))),
    "cors": web(http_filter("cors.v3.Cors"), route_config=hosts(
        EVERYTHING,
        typed_per_filter_config={"envoy.filters.http.cors": typed(
            "filters.http.cors.v3.CorsPolicy",
            allow_origin_string_match=[{"safe_regex": {"regex": ".*"}}],
            allow_methods="GET", max_age="86400",
        )},
    )),
    "csrf": web(http_filter("csrf.v3.CsrfPolicy",
                            filter_enabled={"default_value": {"numerator": 100}})),
    "ext_authz over gRPC": web(_EXT_AUTHZ_GRPC, clusters=(http2("auth"),)),
    "ext_authz over HTTP": web(_EXT_AUTHZ_HTTP, clusters=(cluster("auth"),)),
    "fault injection": web(_FAULT),
    "grpc bridge": web(http_filter("grpc_http1_bridge.v3.Config")),
    "grpc web": web(http_filter("grpc_web.v3.GrpcWeb"), http_filter("cors.v3.Cors")),
    "tracing to a collector": web(tracing=_OTEL, clusters=(http2("collector"),)),
    "tracing to zipkin": web(tracing=_ZIPKIN, generate_request_id=True),
    "local rate limit": web(_LOCAL_LIMIT),
    "global rate limit": web(_GLOBAL_LIMIT, clusters=(http2("limits"),)),
    "lua": web(_LUA),
    "rbac": web(_RBAC),
    "jwt": web(_JWT),
    "route mirror": web(route_config=hosts(_MIRROR), clusters=(cluster("canary"),)),
    "canary by weight": web(route_config=hosts(_CANARY), clusters=(cluster("canary"),)),
    "redirect to https": web(route_config=hosts(
        {"match": {"prefix": "/"}, "redirect": {"https_redirect": True}})),
    "direct response": web(route_config=hosts(
        {"match": {"path": "/ready"}, "direct_response": {"status": 200,
                                                          "body": {"inline_string": "ok"}}})),
    "websocket": web(upgrade_configs=[{"upgrade_type": "websocket"}]),
    "buffer and health check": web(
        http_filter("buffer.v3.Buffer", max_request_bytes=4096),
        http_filter("health_check.v3.HealthCheck", pass_through_mode=False,
                    headers=[{"name": ":path", "string_match": {"exact": "/healthz"}}])),
    "adaptive concurrency": web(http_filter(
        "adaptive_concurrency.v3.AdaptiveConcurrency",
        gradient_controller_config={
            "sample_aggregate_percentile": {"value": 90},
            "concurrency_limit_params": {"concurrency_update_interval": "0.1s"},
            "min_rtt_calc_params": {"interval": "60s", "request_count": 50}})),
    "header to metadata": web(http_filter(
        "header_to_metadata.v3.Config",
        request_rules=[{"header": "x-version", "on_header_present": {
            "metadata_namespace": "envoy.lb", "key": "version", "type": "string"}}])),
    "bandwidth limit": web(http_filter("bandwidth_limit.v3.BandwidthLimit", stat_prefix="b",
                                       enable_mode="request_and_response", limit_kbps=500)),
    "dynamic forward proxy": static(
        listener(manager(http_filter("dynamic_forward_proxy.v3.FilterConfig",
                                     dns_cache_config=_FORWARD_CACHE))),
        clusters=({
            "name": "service", "lb_policy": "cluster_provided",
            "cluster_type": named("envoy.clusters.dynamic_forward_proxy",
                                  "clusters.dynamic_forward_proxy.v3.ClusterConfig",
                                  dns_cache_config=_FORWARD_CACHE)},)),
    "oauth2 of a single page app": {"static_resources": {
        "secrets": _SECRETS, "listeners": [listener(manager(_OAUTH2))], "clusters": [cluster()]}},
    "layered runtime": web() | {"layered_runtime": {"layers": [
        {"name": "static", "static_layer": {"re2.max_program_size.error_level": 1000}}]}},
    "access log as JSON": web(access_log=[{**_STDOUT, "typed_config": {
        **_STDOUT["typed_config"],
        "log_format": {"json_format": {"code": "%RESPONSE_CODE%", "time": "%START_TIME%"}}}}]),
    "headers and timeouts": web(route_config=hosts(
        {"match": {"prefix": "/"},
         "request_headers_to_add": [{"header": {"key": "x-a", "value": "%REQ(x-b)%"},
                                     "append_action": "overwrite_if_exists_or_add"}],
         "route": {"cluster": "service", "timeout": "0s", "idle_timeout": "300s",
                   "retry_policy": {"retry_on": "5xx", "num_retries": 3}}})),
    "tls with certificates of a control plane": static(
        listener(manager(), filter_chains=[{"filters": [manager()],
                                            "transport_socket": _TLS_SERVER}]),
        clusters=(cluster(), http2("xds_cluster")), node={"id": "a", "cluster": "b"}),
    "tls upstream": static(listener(manager()), clusters=(
        cluster("mesh", host="example.com", transport_socket_matches=[
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"},
             "transport_socket": _TLS_UPSTREAM},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": _RAW},
        ]),
        cluster(host="example.com", transport_socket=_TLS_UPSTREAM,
                dns_lookup_family="v4_only"))),
    "sni passthrough": static(listener(
        listener_filters=[named("envoy.filters.listener.tls_inspector",
                                "filters.listener.tls_inspector.v3.TlsInspector")],
        filter_chains=[{"filter_chain_match": {"server_names": ["a.example.com"]},
                        "filters": [tcp_proxy()]}])),
    "tcp with a log": static(listener(tcp_proxy(access_log=[_STDOUT], idle_timeout="3600s"))),
    "redis": static(listener(named(
        "envoy.filters.network.redis_proxy", "filters.network.redis_proxy.v3.RedisProxy",
        stat_prefix="r", settings={"op_timeout": "5s"},
        prefix_routes={"catch_all_route": {"cluster": "service"}}))),
    "mongo before tcp": static(listener(
        named("envoy.filters.network.mongo_proxy", "filters.network.mongo_proxy.v3.MongoProxy",
              stat_prefix="m"), tcp_proxy())),
    "udp": static({
        "name": "udp", "address": socket(1234, protocol="udp"),
        "listener_filters": [named(
            "envoy.filters.udp_listener.udp_proxy", "filters.udp.udp_proxy.v3.UdpProxyConfig",
            stat_prefix="u", matcher={"on_no_match": {"action": named("route",
                "filters.udp.udp_proxy.v3.Route", cluster="service")}})]}),
    "double proxy with health checks": static(listener(manager()), clusters=(cluster(
        connect_timeout="0.5s", lb_policy="round_robin",
        health_checks=[{"timeout": "1s", "interval": "10s", "unhealthy_threshold": 3,
                        "healthy_threshold": 2, "http_health_check": {"path": "/healthz"}}],
        circuit_breakers={"thresholds": [{"priority": "default", "max_requests": 100}]},
        outlier_detection={"consecutive_5xx": 3}),)),
    "subsets of a cluster": static(listener(manager()), clusters=(cluster(
        lb_subset_config={"fallback_policy": "any_endpoint",
                          "subset_selectors": [{"keys": ["version"]}]}),)),
    "ring hash": static(
        listener(manager(route_config=hosts({
            "match": {"prefix": "/"},
            "route": {"cluster": "service",
                      "hash_policy": [{"header": {"header_name": "x-user"}}]}}))),
        clusters=(cluster(lb_policy="Ring_Hash"),)),
    "original destination": static(
        listener(tcp_proxy(), use_original_dst=True),
        clusters=({"name": "service", "type": "original_dst",
                   "lb_policy": "cluster_provided"},)),
    "internal listener": static(
        listener(manager()),
        {"name": "inner", "internal_listener": {},
         "filter_chains": [{"filters": [tcp_proxy("deep")]}]},
        clusters=({"name": "service", "load_assignment": {
            "cluster_name": "service", "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"envoy_internal_address": {"server_listener_name": "inner"}}}}]}]}},
            cluster("deep")),
        bootstrap_extensions=[named("envoy.bootstrap.internal_listener",
                                    "bootstrap.internal_listener.v3.InternalListener")]),
}  # fmt: skip
"""In the manner of envoyproxy/envoy and envoyproxy/examples."""

GATEWAYS: Final[dict[str, Part]] = {
    "bootstrap of a gateway": static(
        listener(manager(route_config=hosts(
            {"match": {"path": "/stats/prometheus"}, "route": {"cluster": "prometheus"}})),
            port=19001),
        clusters=(cluster("prometheus"), http2("xds_cluster", connect_timeout="10s")),
        admin={"address": socket(19000), "access_log": [_STDOUT]},
        dynamic_resources={"ads_config": {**_ADS, "api_type": "DELTA_GRPC",
                                          "set_node_on_first_message_only": True},
                           "lds_config": {"ads": {}, "resource_api_version": "V3"},
                           "cds_config": {"ads": {}, "resource_api_version": "V3"}},
        node={"id": "gateway", "cluster": "gateway"},
        overload_manager={
            "refresh_interval": "0.25s",
            "resource_monitors": [named("envoy.resource_monitors.fixed_heap",
                                        "resource_monitors.fixed_heap.v3.FixedHeapConfig",
                                        max_heap_size_bytes=1 << 30)],
            "actions": [{"name": "envoy.overload_actions.shrink_heap", "triggers": [
                {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.95}}]}]},
    ),
    "configuration from files": static(
        clusters=(cluster(),), node={"id": "files", "cluster": "files"},
        dynamic_resources={
            "lds_config": {"path_config_source": {"path": "/dev/null"}},
        }),
    "sidecar of a mesh": static(
        {"name": "virtualInbound", "address": socket(15006, "0.0.0.0"),  # noqa: S104 - an example
         "traffic_direction": "inbound",
         "filter_chains": [{"name": "inbound", "filters": [manager(
             http_filter("fault.v3.HTTPFault"), http_filter("cors.v3.Cors"),
             route_config={"name": "inbound|8080||", "validate_clusters": False, **hosts(
                 {"match": {"prefix": "/"}, "route": {"cluster": "inbound|8080||"}})})]}]},
        clusters=(cluster("BlackHoleCluster"),),
        stats_config={"use_all_default_tags": False, "stats_tags": [
            {"tag_name": "cluster_name", "regex": "^cluster\\.((.+?)\\.)"}]}),
    "grpc access logs of a gateway": web(
        access_log=[named("envoy.access_loggers.open_telemetry",
                          "access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
                          common_config={"log_name": "otel", "transport_api_version": "V3",
                                         "grpc_service": {"envoy_grpc": {
                                             "cluster_name": "collector"}}})],
        clusters=(http2("collector"),)),
    "routes by a control plane": static(
        listener(manager(rds={"route_config_name": "llm", "config_source": {
            "resource_api_version": "V3", "api_config_source": _ADS}})),
        clusters=(cluster(), http2("xds_cluster")), node={"id": "a", "cluster": "b"}),
    "settings written as a struct": web({"name": "envoy.filters.http.cors", "typed_config": {
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "type_url": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors",
        "value": {}}}),
}  # fmt: skip
"""In the manner of envoyproxy/gateway and istio/istio."""

GUARDED: Final[dict[str, Part]] = {
    "router by meaning": web(
        ext_proc("semantic_router", failure_mode_allow=True, message_timeout="300s",
                 processing_mode={"request_header_mode": "send", "request_body_mode": "buffered",
                                  "response_header_mode": "SEND",
                                  "response_body_mode": "BUFFERED"}),
        clusters=(http2("semantic_router"),)),
    "ai gateway": web(
        ext_proc("ai_gateway_extproc", allow_mode_override=True,
                 processing_mode={"request_body_mode": "Buffered"}),
        codec_type="AUTO",
        clusters=(http2("ai_gateway_extproc"),)),
    "ai gateway with a filter upstream": web(clusters=(
        http2("ai_gateway_extproc"),
        cluster("openai", host="api.openai.com", transport_socket=_TLS_UPSTREAM,
                typed_extension_protocol_options={
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                        "upstreams.http.v3.HttpProtocolOptions",
                        auto_config={},
                        http_filters=[
                            ext_proc("ai_gateway_extproc"),
                            http_filter("header_mutation.v3.HeaderMutation", mutations={}),
                            named("envoy.filters.http.upstream_codec",
                                  "filters.http.upstream_codec.v3.UpstreamCodec")])}))),
    "two servers one after another": web(
        ext_proc("first", processing_mode={"response_header_mode": "SKIP"}),
        ext_proc("second", failure_mode_allow=True),
        clusters=(http2("first"), http2("second"))),
    "bodies in both directions": web(
        ext_proc("judge", processing_mode={
            "request_body_mode": "full_duplex_streamed", "request_trailer_mode": "send",
            "response_body_mode": "FULL_DUPLEX_STREAMED", "response_trailer_mode": "SEND"}),
        clusters=(http2("judge"),)),
    "off on a route": web(
        ext_proc("judge"),
        route_config=hosts({**EVERYTHING, "typed_per_filter_config": {
            "envoy.filters.http.ext_proc": typed("filters.http.ext_proc.v3.ExtProcPerRoute",
                                                 disabled=True)}}),
        clusters=(http2("judge"),)),
    "google's client": web(http_filter(
        "ext_proc.v3.ExternalProcessor",
        grpc_service={"google_grpc": {"target_uri": "127.0.0.1:50051", "stat_prefix": "g"}})),
    "as a library of settings": web(
        ext_proc("egret", failure_mode_allow=False, message_timeout="10s"),
        clusters=(http2("egret"),)),
}  # fmt: skip
"""With an ext_proc server, in the manner of envoyproxy/ai-gateway and others."""

_TEXTS: Final[dict[str, str]] = {
    "anchors": """\
static_resources:
  clusters:
  - &one {name: one, connect_timeout: &quick 0.25s}
  - {name: two, connect_timeout: *quick}
""",
    "booleans and numbers as text": yaml_of(
        web(use_remote_address="true", xff_num_trusted_hops="1", max_request_headers_kb=60.0)
    ),
    "words of YAML for yes": yaml_of(web()).replace(
        "stat_prefix: ingress", "stat_prefix: ingress\n          skip_xff_append: yes"
    ),
    "a key twice and one without a value": yaml_of(web()).replace(
        "stat_prefix: ingress",
        "stat_prefix: ingress\n          via: a\n          via: b\n          server_name:",
    ),
    "only an admin": "admin:\n  address: {socket_address: {address: 127.0.0.1, port_value: 0}}\n",
}
ACCEPTED: Final[dict[str, str]] = {
    **{name: yaml_of(config) for name, config in (ENVOY | GATEWAYS | GUARDED).items()},
    **{f"{name}, as JSON": json_of(config) for name, config in GUARDED.items()},
    **_TEXTS,
}
