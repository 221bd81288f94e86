"""Our own Envoy configuration, and the mistakes that can be made in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config

from sidecar.policy.yaml_positions import write_yaml

Config = dict[str, Any]
Mistake = Callable[[Config], None]

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
DUPLEX: Final = "FULL_DUPLEX_STREAMED"
LONG_PATH: Final = f"/run/{'x' * 110}/worker-0.sock"


def own_text() -> str:
    """Return the configuration that Egret ships, for production."""
    parameters = EnvoyParameters(
        worker_sockets=("/run/egret/w-0.sock", "/run/egret/w-1.sock"),
        sds_directory="/etc/egret/sds",
        admin_socket="/run/admin.sock",
        metrics_port=9465,
    )
    return render_envoy_config(parameters)


def with_mistake(mistake: Mistake) -> str:
    """Return it with one mistake."""
    config = copy.deepcopy(_OWN)
    mistake(config)
    return write_yaml(config)


def for_version(minor: int, mistake: Mistake | None = None) -> str:
    """Return it as Envoy 1.*minor* takes it, which sends every body; with a mistake, if any."""
    config = copy.deepcopy(_OWN)
    _sends_every_body(config)
    version = {"major_number": 1, "minor_number": minor}
    config["node"]["user_agent_build_version"] = {"version": version}
    hcm = _hcm(config)
    hcm["http_filters"] = [one for one in hcm["http_filters"] if "ai_protocol" not in one["name"]]
    hcm["access_log"] = [one for one in hcm["access_log"] if "open_telemetry" not in one["name"]]
    for holder in (_host(config), *_host(config)["routes"]):
        holder.pop("typed_per_filter_config", None)
    if minor < 38:
        del _ext_proc(config)["allow_content_length_header"]
    if mistake is not None:
        mistake(config)
    return write_yaml(config)


def other_modes(config: Config, modes: dict[str, str]) -> None:
    """Change the processing mode of Egret's filter."""
    _ext_proc(config)["processing_mode"].update(modes)


def _sends_every_body(config: Config) -> None:
    _ext_proc(config)["processing_mode"].update(
        request_body_mode=DUPLEX, request_trailer_mode="SEND", response_trailer_mode="SEND"
    )
    for route in _host(config)["routes"]:
        route.get("route", {}).pop("retry_policy", None)


_OWN: Final[Config] = yaml.safe_load(own_text())


def _listener(config: Config) -> Any:
    return config["static_resources"]["listeners"][0]


def _hcm(config: Config) -> Any:
    return _listener(config)["filter_chains"][0]["filters"][0]["typed_config"]


def _metrics_route(config: Config) -> Any:
    manager = config["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]
    return manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]


def _open_admin(config: Config) -> None:
    address = {"socket_address": {"address": "192.0.2.1", "port_value": 9901}}
    config["admin"]["address"] = address
    group = _cluster(config, "admin")["load_assignment"]["endpoints"][0]
    group["lb_endpoints"] = [{"endpoint": {"address": address}}]


def _is_ext_proc(filter_: Any) -> bool:
    return bool(filter_["name"] == "envoy.filters.http.ext_proc")


def _ext_proc_filter(config: Config) -> Any:
    return next(filter(_is_ext_proc, _hcm(config)["http_filters"]))


def _ext_proc(config: Config) -> Any:
    return _ext_proc_filter(config)["typed_config"]


def _without_path(config: Config) -> None:
    allowed = _ext_proc(config)["mutation_rules"]["allow_expression"]
    allowed["regex"] = allowed["regex"].removeprefix(":path|")


def _ai_filter(config: Config) -> Any:
    return next(
        one["typed_config"] for one in _hcm(config)["http_filters"] if "ai_protocol" in one["name"]
    )


def _cluster(config: Config, name: str) -> Any:
    return next(one for one in config["static_resources"]["clusters"] if one["name"] == name)


def _workers(config: Config) -> Any:
    return _cluster(config, "egret")


def _provider(config: Config) -> Any:
    return _cluster(config, "openai")


def _tls(config: Config) -> Any:
    return _provider(config)["transport_socket"]["typed_config"]


def _options(cluster: Any) -> Any:
    return next(iter(cluster["typed_extension_protocol_options"].values()))


def _injector(config: Config) -> Any:
    filters = _options(_provider(config))["http_filters"]
    return next(one["typed_config"] for one in filters if "credential_injector" in one["name"])


def _host(config: Config) -> Any:
    return _hcm(config)["route_config"]["virtual_hosts"][0]


def _route(config: Config) -> Any:
    return _host(config)["routes"][-1]["route"]


def _per_route(config: Config, value: Config) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
    _host(config)["typed_per_filter_config"] = {
        "envoy.filters.http.ext_proc": {"@type": kind, **value}
    }


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
    second = copy.deepcopy(_listener(config))
    second["name"] = "second"
    second["address"]["socket_address"]["port_value"] = 9443
    manager = second["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [one for one in manager["http_filters"] if not _is_ext_proc(one)]
    config["static_resources"]["listeners"].append(second)


def _read_first(config: Config) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"
    buffer = {"@type": kind, "max_request_bytes": 1000}
    _hcm(config)["http_filters"].insert(
        0, {"name": "envoy.filters.http.buffer", "typed_config": buffer}
    )


_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters.http"


def _with_filter(name: str, place: int, settings: Config) -> Mistake:
    """Return a mistake that puts a filter before Egret's (0), or behind it (-1)."""

    def mistake(config: Config) -> None:
        one = {"name": name, "typed_config": settings}
        _hcm(config)["http_filters"].insert(place, one)

    return mistake


def _processor(**modes: str) -> Config:
    """Return another processor than Egret, with these modes."""
    trailers = {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}
    return {
        "@type": f"{_FILTERS}.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "other"}},
        "processing_mode": {**trailers, **modes},
    }


_CHOSEN: Final[Config] = {"metadata_namespace": "egret", "key": "provider_credential"}
_HEADER_TO_METADATA: Final[Config] = {
    "@type": f"{_FILTERS}.header_to_metadata.v3.Config",
    "request_rules": [{"header": "x-credential", "on_header_present": _CHOSEN}],
}

_FORGING: Final[Config] = {
    **_processor(request_body_mode="NONE"),
    "metadata_options": {"receiving_namespaces": {"untyped": ["egret"]}},
}


def _forged_on_a_route(config: Config) -> None:
    filter_ = {"@type": _HEADER_TO_METADATA["@type"]}
    _hcm(config)["http_filters"].insert(0, {"name": "by header", "typed_config": filter_})
    _host(config)["routes"][0]["typed_per_filter_config"] = {"by header": _HEADER_TO_METADATA}


FORGED: Final[dict[str, Mistake]] = {
    "header after": _with_filter("by header", -1, _HEADER_TO_METADATA),
    "body": _with_filter("by body", -1, {
        "@type": f"{_FILTERS}.json_to_metadata.v3.JsonToMetadata",
        "request_rules": {"rules": [{"selectors": [{"key": "user"}], "on_present": _CHOSEN}]},
    }),
    "fixed": _with_filter("fixed", -1, {
        "@type": f"{_FILTERS}.set_metadata.v3.Config",
        "metadata": [{"metadata_namespace": "egret", "value": {"provider_region": "eu"}}],
    }),
    "route": _forged_on_a_route,
    "lua": _with_filter("lua", 0, {
        "@type": f"{_FILTERS}.lua.v3.Lua",
        "default_source_code": {"inline_string": (
            "function envoy_on_request(handle)\n"
            "  local data = handle:streamInfo():dynamicMetadata()\n"
            "  data:set('egret', 'provider_region', handle:headers():get('x-region'))\n"
            "end\n"
        )},
    }),
    "processor": _with_filter("second", -1, _FORGING),
    "upstream": lambda config: _options(_provider(config))["http_filters"].insert(
        0, {"name": "second", "typed_config": _FORGING}
    ),
}  # fmt: skip
"""Further filters that write to Egret's metadata."""


def with_processor_at_provider(config: Config) -> None:
    """Add a processor of headers to the filters of a provider's cluster."""
    one = {"name": "second", "typed_config": _processor(request_body_mode="NONE")}
    _options(_provider(config))["http_filters"].insert(0, one)


_SORRY: Final[Config] = {
    "filter": {"status_code_filter": {"comparison": {
        "op": "GE", "value": {"default_value": 400, "runtime_key": "sorry"},
    }}},
    "status_code": 503,
    "body": {"inline_string": "sorry"},
}  # fmt: skip


def with_replies_of_its_own(config: Config) -> None:
    """Change Envoy's own replies, and a header of all."""
    _hcm(config)["local_reply_config"] = {"mappers": [
        {**_SORRY, "filter": {"response_flag_filter": {"flags": ["UH", "UF", "UT"]}}},
        {"filter": _SORRY["filter"], "headers_to_add": [
            {"header": {"key": "x-gateway", "value": "llm"}},
        ]},
    ]}  # fmt: skip


def with_an_open_listener(config: Config) -> None:
    """Add a listener that leads a share of its requests to a provider, without Egret."""
    one = copy.deepcopy(_listener(config))
    one["name"], one["address"]["socket_address"]["port_value"] = "open", 8444
    manager = one["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [each for each in manager["http_filters"] if not _is_ext_proc(each)]
    (host,) = manager["route_config"]["virtual_hosts"]
    host["routes"] = [host["routes"][-1]]
    action = host["routes"][0]["route"]
    action["weighted_clusters"] = {"clusters": [{"name": action.pop("cluster"), "weight": 1}]}
    config["static_resources"]["listeners"].append(one)


def with_a_tcp_listener(action: Config, **listener: Any) -> Mistake:
    """Return a listener that forwards connections, without HTTP."""

    def mistake(config: Config) -> None:
        kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
        typed = {"@type": kind, "stat_prefix": "tcp", **action}
        filters = [{"name": "envoy.filters.network.tcp_proxy", "typed_config": typed}]
        address = {"socket_address": {"address": "127.0.0.1", "port_value": 9444}}
        place = listener or {"address": address}
        one = {"name": "tcp", **place, "filter_chains": [{"filters": filters}]}
        config["static_resources"]["listeners"].append(one)

    return mistake


def open_by_header(config: Config) -> None:
    """Let a header choose the cluster of requests to a listener without Egret."""
    with_an_open_listener(config)
    chain = config["static_resources"]["listeners"][-1]["filter_chains"][0]
    (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    del host["routes"][0]["route"]["weighted_clusters"]
    host["routes"][0]["route"]["cluster_header"] = "x-cluster"


def in_an_aggregate(member: Mistake | None = None) -> Mistake:
    """Return routes to a cluster of two providers, with a mistake in one of those, if any."""

    def mistake(config: Config) -> None:
        kind = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
        whole = {"@type": kind, "clusters": ["openai", "anthropic"]}
        config["static_resources"]["clusters"].append({
            "name": "any",
            "connect_timeout": "1s",
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": whole},
        })  # fmt: skip
        for route in _host(config)["routes"]:
            if "cluster" in route.get("route", {}):
                route["route"]["cluster"] = "any"
        if member is not None:
            member(config)

    return mistake


def chosen_by_header(member: Mistake) -> Mistake:
    """Return a mistake in a provider that only a header of Egret's own can choose."""

    def mistake(config: Config) -> None:
        by_cluster_header({"remove": "x-cluster"})(config)
        for route in _host(config)["routes"]:
            if "cluster" in route.get("route", {}):
                del route["route"]["cluster"]
                route["route"]["cluster_header"] = "x-cluster"
        member(config)

    return mistake


TCP: Final[dict[str, Mistake]] = {
    "cluster": with_a_tcp_listener({"cluster": "openai"}),
    "share": with_a_tcp_listener(
        {"weighted_clusters": {"clusters": [{"name": "openai", "weight": 1}]}}
    ),
}
"""Listeners of TCP that lead to a provider."""

OFF: Final[Config] = {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
    "disabled": True,
}
_SWITCH: Final = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def _off_in_a_weighted_cluster(config: Config) -> None:
    action = _host(config)["routes"][-1]["route"]
    share = {"name": action.pop("cluster"), "weight": 1}
    share["typed_per_filter_config"] = {"envoy.filters.http.ext_proc": OFF}
    action["weighted_clusters"] = {"clusters": [share]}


def _off_by_a_switch_for_the_filters_own_name(config: Config) -> None:
    _ext_proc_filter(config)["name"] = "egret"
    switch = {"@type": _SWITCH, "disabled": True}
    _host(config)["routes"][0]["typed_per_filter_config"] = {"egret": switch}


def _off_in_the_route_configuration(config: Config) -> None:
    override = {"envoy.filters.http.ext_proc": OFF}
    _hcm(config)["route_config"]["typed_per_filter_config"] = override


def _off_within_a_filter_config(config: Config) -> None:
    _host(config)["typed_per_filter_config"] = {
        "envoy.filters.http.ext_proc": {"@type": _SWITCH, "config": OFF}
    }


UNGUARDED: Final[tuple[Mistake, ...]] = (
    _off_in_a_weighted_cluster,
    _off_by_a_switch_for_the_filters_own_name,
    _off_in_the_route_configuration,
    _off_within_a_filter_config,
)
"""Further forms of EGR123's override: with each, Envoy lets requests without a key pass."""


def off_by_a_mode(config: Config) -> None:
    """Send Egret nothing of the requests on a route, and believe nothing that it answers."""
    modes = {"request_header_mode": "SKIP", "request_body_mode": "STREAMED"}
    other = {"receiving_namespaces": {"untyped": ["other"]}}
    _per_route(config, {"overrides": {"processing_mode": modes, "metadata_options": other}})


def with_copies_in_the_clear(config: Config) -> None:
    """Send copies of requests to a cluster without TLS."""
    address = {"socket_address": {"address": "copies.example", "port_value": 80}}
    config["static_resources"]["clusters"].append(
        {
            "name": "copies",
            "type": "STRICT_DNS",
            "load_assignment": {
                "cluster_name": "copies",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }
    )
    _host(config)["request_mirror_policies"] = [{"cluster": "copies"}]


WASM: Final[Config] = {
    "@type": f"{_FILTERS}.wasm.v3.Wasm",
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
    _hcm(config)["http_filters"].insert(
        1, {"name": "envoy.filters.http.aws_request_signing", "typed_config": signing}
    )


def _move_retry(config: Config) -> None:
    service = _ext_proc(config)["grpc_service"]
    service["envoy_grpc"]["retry_policy"] = {"num_retries": 1}


def _google_grpc(config: Config) -> None:
    service = _ext_proc(config)["grpc_service"]
    del service["envoy_grpc"]
    service["google_grpc"] = {"target_uri": "unix:/run/egret/w-0.sock", "stat_prefix": "egret"}


def _share_socket(config: Config) -> None:
    endpoints = _workers(config)["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoints[1] = copy.deepcopy(endpoints[0])


def _no_tls(config: Config) -> None:
    provider = _provider(config)
    del provider["transport_socket"]
    options = _options(provider)
    del options["auto_config"]  # which wants TLS to agree on the protocol
    options["explicit_http_config"] = {"http_protocol_options": {}}


def _inline_secret(config: Config) -> None:
    secret = {"name": "key", "generic_secret": {"secret": {"inline_string": "Bearer sk-1"}}}
    config["static_resources"]["secrets"] = [secret]


def _key_in_route(config: Config) -> None:
    header = {"key": "authorization", "value": "Bearer sk-1"}
    _host(config)["request_headers_to_add"] = [{"header": header}]


def _limits_of_provider(config: Config) -> None:
    filters = _options(_provider(config))["http_filters"]
    mutations = next(one for one in filters if "header_mutation" in one["name"])["typed_config"]
    kept = [one for one in mutations["mutations"]["response_mutations"] if "append" in one]
    mutations["mutations"]["response_mutations"] = kept


def _workers_by_tcp(config: Config) -> None:
    address = {"socket_address": {"address": "10.0.0.5", "port_value": 50051}}
    _workers(config)["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": address}}
    ]


def _log_format(config: Config) -> Any:
    return _hcm(config)["access_log"][0]["typed_config"]["log_format"]["json_format"]


_REMOVED = "request_headers_to_remove"


def _keep(name: str) -> Mistake:
    def mistake(config: Config) -> None:
        _host(config)[_REMOVED].remove(name)

    return mistake


def _by_model(*mistakes: Mistake) -> Mistake:
    """Return mistakes in a configuration in which a route goes by the model, rightly."""
    kind = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3"

    def mistake(config: Config) -> None:
        typed = {"@type": f"{kind}.HeaderMutation", "mutations": [{"remove": "x-egret-model"}]}
        name = "envoy.http.early_header_mutation.header_mutation"
        _hcm(config)[_EARLY] = [{"name": name, "typed_config": typed}]
        route = copy.deepcopy(_host(config)["routes"][-1])
        named = {"name": "x-egret-model", "string_match": {"prefix": "gpt-"}}
        route["match"] = {"prefix": "/", "headers": [named]}
        _host(config)["routes"].insert(0, route)
        for one in mistakes:
            one(config)

    return mistake


def _matched(name: str, *, invert: bool = False, **value: Any) -> Config:
    """Return a matcher of one name of Egret's metadata."""
    path = [{"key": f"provider_{name}"}]
    matched = {"filter": "egret", "path": path, "value": value or {"present_match": True}}
    return matched | ({"invert": True} if invert else {})


def by_choice(*, refused: str = "/", excludes: bool = True) -> Mistake:
    """Return a route by the provider's region, and a refusal of others below a path.

    There is a mistake in it unless every other region is refused, and other names are excluded.
    """

    def mistake(config: Config) -> None:
        route = copy.deepcopy(_host(config)["routes"][-1])
        chosen = [_matched("region", string_match={"exact": "eu"})]
        if excludes:
            chosen += [_matched(name, invert=True) for name in ("credential", "order")]
        route["match"] = {"prefix": "/", "dynamic_metadata": chosen}
        match = {"prefix": refused, "dynamic_metadata": [_matched("region")]}
        refusal = {"match": match, "direct_response": {"status": 503}}
        _host(config)["routes"][:0] = [route, refusal]

    return mistake


def by_cluster_header(*early: Config, name: str = "X-Cluster") -> Mistake:
    """Return a route to the cluster that a header names, with mutations before the first route."""

    def mistake(config: Config) -> None:
        _by_model()(config)
        _hcm(config)[_EARLY][0]["typed_config"]["mutations"] += early
        route = _host(config)["routes"][0]
        route["match"] = {"prefix": "/"}
        del route["route"]["cluster"]
        route["route"]["cluster_header"] = name

    return mistake


def with_a_share_by_header(config: Config) -> None:
    """Lead a share of requests to the cluster that a header names."""
    action = _host(config)["routes"][-1]["route"]
    shares = [{"name": action.pop("cluster"), "weight": 1}]
    action["weighted_clusters"] = {"clusters": [*shares, {"cluster_header": "x-b", "weight": 1}]}


def with_copies_by_header(config: Config) -> None:
    """Send copies of requests to the cluster that a header names."""
    _host(config)["request_mirror_policies"] = [{"cluster_header": "x-copies"}]


def with_providers_by_policy(config: Config) -> None:
    """Add the routes of the example and its clusters, which have no mistake."""
    own = _provider(config)
    config["static_resources"]["clusters"] += [
        copy.deepcopy(own) | {"name": f"openai_{one}"} for one in ("search", "eu", "reserved")
    ]
    text = (EXAMPLES / "providers-by-policy" / "routes.yaml").read_text(encoding="utf-8")
    _host(config)["routes"][:0] = yaml.safe_load(text)


def _send_every_body_with_retries(config: Config) -> None:
    policy = _route(config)["retry_policy"]
    _sends_every_body(config)
    _route(config)["retry_policy"] = policy


def _ask_for_bodies(config: Config) -> None:
    _ext_proc(config)["processing_mode"]["request_body_mode"] = "NONE"


def _buffer_with_upgrades(config: Config) -> None:
    _ext_proc(config)["processing_mode"]["request_body_mode"] = "BUFFERED"
    _hcm(config)["upgrade_configs"] = [{"upgrade_type": "websocket"}]


def _switch_filter_by_model(config: Config) -> None:
    switch = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    _host(config)["routes"][0]["typed_per_filter_config"] = {"lua": switch}


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
        "transport_socket": copy.deepcopy(_provider(config)["transport_socket"]),
        "typed_extension_protocol_options": copy.deepcopy(
            _provider(config)["typed_extension_protocol_options"]
        ),
    })  # fmt: skip
    _options(_cluster(config, "any_host"))["upstream_http_protocol_options"] = {
        "auto_sni": True, "auto_san_validation": True,
    }  # fmt: skip
    proxy = {"@type": f"{_FILTERS}.dynamic_forward_proxy.v3.FilterConfig"}
    _with_filter("hosts", -1, proxy | {"dns_cache_config": cache})(config)
    route = _route(config)
    route["cluster"] = "any_host"
    del route["host_rewrite_literal"]


def off_in_a_matcher(config: Config) -> None:
    """Choose the route of requests by a tree of matchers, and switch Egret off on it."""
    routes = _host(config).pop("routes")
    route = {
        "@type": "type.googleapis.com/envoy.config.route.v3.Route",
        **routes[-1],
        "match": {"prefix": "/"},
        "typed_per_filter_config": {"envoy.filters.http.ext_proc": OFF},
    }
    kind = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    path = {"name": "path", "typed_config": {"@type": kind, "header_name": ":path"}}
    action = {"action": {"name": "route", "typed_config": route}}
    tree = {"input": path, "prefix_match_map": {"map": {"/": action}}}
    _host(config)["matcher"] = {"matcher_tree": tree}


_EARLY = "early_header_mutation_extensions"

MISTAKES: Final[dict[str, Mistake]] = {
    "EGR101": _put(_ext_proc, "failure_mode_allow", value=True),
    "EGR102": _drop(_ext_proc, "message_timeout"),
    "EGR103": _drop(_ext_proc, "allow_mode_override"),
    "EGR104": _put(_ext_proc, "processing_mode", "request_header_mode", value="SKIP"),
    "EGR105": _put(_ext_proc, "processing_mode", "request_body_mode", value="STREAMED"),
    "EGR106": _put(_ext_proc, "processing_mode", "request_body_mode", value=DUPLEX),
    "EGR107": _put(_ext_proc, "processing_mode", "response_header_mode", value="SEND"),
    "EGR108": _put(_ext_proc, "processing_mode", "response_body_mode", value="BUFFERED"),
    "EGR109": _drop(_ext_proc, "metadata_options"),
    "EGR110": _drop(_ext_proc, "mutation_rules", "disallow_is_error"),
    "EGR111": _put(
        _ext_proc, "mutation_rules", "allow_expression", value={"regex": ":path|x-egret-.*"}
    ),
    "EGR112": _put(_ext_proc, "emit_client_span", value=False),
    "EGR113": _put(_ext_proc, "observability_mode", value=True),
    "EGR114": _put(_ext_proc, "disable_immediate_response", value=True),
    "EGR115": _put(_ext_proc, "send_body_without_waiting_for_header_response", value=True),
    "EGR116": _drop(_ext_proc, "grpc_service", "retry_policy"),
    "EGR117": _drop(_ext_proc, "grpc_service", "retry_policy", "retry_host_predicate"),
    "EGR118": _put(
        _ext_proc, "grpc_service", "retry_policy", "retry_on", value="deadline-exceeded"
    ),
    "EGR119": _move_retry,
    "EGR120": _google_grpc,
    "EGR121": _put(_ext_proc, "grpc_service", "timeout", value="5s"),
    "EGR122": _drop(_ext_proc, "grpc_service", "envoy_grpc", "skip_envoy_headers"),
    "EGR123": lambda config: _per_route(config, {"disabled": True}),
    "EGR124": lambda config: _per_route(config, {"overrides": {"failure_mode_allow": True}}),
    "EGR125": lambda config: _per_route(
        config, {"overrides": {"processing_mode": {"request_body_mode": "BUFFERED"}}}
    ),
    "EGR126": lambda config: _ext_proc_filter(config).update(disabled=True),
    "EGR138": lambda config: _per_route(
        config, {"overrides": {"grpc_service": {"envoy_grpc": {"cluster_name": "openai"}}}}
    ),
    "EGR136": _without_path,
    "EGR137": _put(
        _ext_proc,
        "forward_rules",
        value={"allowed_headers": {"patterns": [{"exact": "authorization"}, {"prefix": "x-"}]}},
    ),
    "EGR127": _drop(_ext_proc, "allow_content_length_header"),
    "EGR128": _drop(_ext_proc, "request_attributes"),
    "EGR129": _put(_ext_proc, "processing_mode", "request_body_mode", value="BUFFERED"),
    "EGR130": _by_model(_put(_ext_proc, "disable_clear_route_cache", value=True)),
    "EGR131": _put(
        _ext_proc, "grpc_service", "initial_metadata", 0, "value", value="%FILTER_STAT(a)%"
    ),
    "EGR132": _put(
        _ext_proc, "allowed_override_modes", value=[{"request_body_mode": "BUFFERED"}]
    ),
    "EGR133": _drop(_ext_proc, "stat_prefix"),
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
    "EGR212": lambda config: _options(_workers(config))["explicit_http_config"].update(
        http2_protocol_options={"initial_stream_window_size": 65536}
    ),
    "EGR213": lambda config: _options(_workers(config))["explicit_http_config"].update(
        http2_protocol_options={"connection_keepalive": {"interval": "0.5s", "timeout": "1s"}}
    ),
    "EGR214": lambda config: config["layered_runtime"]["layers"][0]["static_layer"].pop(
        "envoy.reloadable_features.ext_proc_graceful_grpc_close"
    ),
    "EGR215": _drop(_workers, "common_lb_config", "update_merge_window"),
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
    "EGR306": lambda config: _options(_provider(config)).update(
        http_filters=_options(_provider(config))["http_filters"][1:]
    ),
    "EGR307": _put(_injector, "overwrite", value=False),
    "EGR308": _put(_injector, "allow_request_without_credential", value=True),
    "EGR309": _inline_secret,
    "EGR310": _key_in_route,
    "EGR311": _limits_of_provider,
    "EGR312": _forward_anywhere,
    "EGR401": _drop(_route, "timeout"),
    "EGR402": _put(_route, "idle_timeout", value="10s"),
    "EGR403": _drop(_route, "max_stream_duration"),
    "EGR404": _put(_route, "retry_policy", "retry_on", value="5xx"),
    "EGR405": _put(_route, "retry_policy", "per_try_timeout", value="20s"),
    "EGR406": _put(_hcm, "upgrade_configs", value=[{"upgrade_type": "websocket"}]),
    "EGR407": _keep("x-api-key"),
    "EGR408": _keep("traceparent"),
    "EGR409": _drop(_route, "host_rewrite_literal"),
    "EGR410": _by_model(_drop(_hcm, _EARLY)),
    "EGR411": _by_model(_keep("x-egret-model")),
    "EGR413": _send_every_body_with_retries,
    "EGR414": _by_model(_switch_filter_by_model),
    "EGR415": by_choice(refused="/v1/chat"),
    "EGR416": by_choice(excludes=False),
    "EGR417": by_cluster_header(),
    "EGR501": lambda config: _hcm(config).update(http_filters=_hcm(config)["http_filters"][-1:]),
    "EGR502": _unguard,
    "EGR503": _read_first,
    "EGR504": _drop(_hcm, "normalize_path"),
    "EGR505": _drop(_hcm, "merge_slashes"),
    "EGR506": _drop(_hcm, "path_with_escaped_slashes_action"),
    "EGR507": _drop(_hcm, "common_http_protocol_options", "headers_with_underscores_action"),
    "EGR508": _drop(_hcm, "use_remote_address"),
    "EGR509": _drop(_hcm, "request_headers_timeout"),
    "EGR510": _put(_hcm, "stream_idle_timeout", value="0s"),
    "EGR511": _put(_hcm, "preserve_external_request_id", value=True),
    "EGR512": _drop(_hcm, "http2_protocol_options", "max_concurrent_streams"),
    "EGR513": _drop(_listener, "per_connection_buffer_limit_bytes"),
    "EGR514": lambda config: _listener(config)["filter_chains"][0].pop("transport_socket"),
    "EGR515": _drop(_hcm, "skip_xff_append"),
    "EGR516": _put(_log_format, "credential", value="%REQ(AUTHORIZATION)%"),
    "EGR517": _put(_log_format, "path", value="%REQ(:PATH)%"),
    "EGR518": _drop(_log_format, "egret"),
    "EGR528": _put(_log_format, "route", value="%ROUTE%"),
    "EGR519": _open_admin,
    "EGR530": _put(_hcm, "local_reply_config", value={"mappers": [_SORRY]}),
    "EGR520": _drop(lambda config: config, "overload_manager"),
    "EGR521": _sign_first,
    "EGR523": _put(_metrics_route, "match", value={"prefix": "/"}),
    "EGR526": _with_filter("later", -1, _processor(request_body_mode="BUFFERED")),
    "EGR529": lambda config: _ai_filter(config)["response_handling"]["token_usage"].update(
        usage_signal="SYNTHESIZE_TRAILERS"
    ),
    "EGR527": _with_filter("mcp", 0, {"@type": f"{_FILTERS}.mcp.v3.Mcp"}),
    "EGR531": _with_filter("by header", 0, _HEADER_TO_METADATA),
    "EGR532": _with_filter("cache", 0, {
        "@type": f"{_FILTERS}.cache.v3.CacheConfig",
        "typed_config": {"@type": "type.googleapis.com/"
            "envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig"},
    }),
}  # fmt: skip
"""One mistake a rule."""

_STREAMING: Final = _processor(request_body_mode=DUPLEX, response_body_mode=DUPLEX)
OLDER_MISTAKES: Final[dict[str, tuple[int, Mistake | None, frozenset[str]]]] = {
    "EGR134": (36, None, frozenset()),
    "EGR135": (39, None, frozenset()),
    "EGR412": (40, _buffer_with_upgrades, frozenset({"EGR129", "EGR406"})),
    "EGR522": (39, _ask_for_bodies, frozenset()),
    "EGR524": (38, _with_filter("other", 0, _STREAMING), frozenset({"EGR503"})),
    "EGR525": (39, _with_filter("wasm", 0, WASM), frozenset({"EGR503"})),
}
"""Of rules that another rule's mistake comes with, or an older Envoy: its minor version, the
mistake in the configuration for it (None: the version itself), and the rules found with it."""

REFUSED_BY_ENVOY: Final = frozenset({"EGR106", "EGR202", "EGR209", "EGR528"})
"""What Envoy itself does not start with; all else it takes without a word."""
