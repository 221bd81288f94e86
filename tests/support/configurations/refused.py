"""Configurations that Envoy refuses, each for another mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.support.configurations.build import (
    EVERYTHING,
    Part,
    cluster,
    ext_proc,
    hosts,
    http2,
    http_filter,
    listener,
    manager,
    named,
    socket,
    static,
    tcp_proxy,
    web,
    yaml_of,
)


def _changed(change: Callable[[Any], object]) -> Part:
    """Return a configuration with one change."""
    changed = web()
    change(changed["static_resources"])
    return changed


def _first(resources: Any) -> Any:
    return resources["listeners"][0]


REFUSED: Final[dict[str, str]] = {
    name: yaml_of(config)
    for name, config in {
        # Names and values.
        "a misspelt field": web(use_remote_adress=True),
        "a field of no message": web(preserve_everything=True),
        "an enum's value that does not exist": web(codec_type="HTTP4"),
        "a number for an enum that has no such value": web(codec_type=17),
        "a duration without its unit": web(delayed_close_timeout="5"),
        "a duration in milliseconds": web(stream_idle_timeout="500ms"),
        "a negative duration": web(request_timeout="-1s"),
        "a number that is none": web(xff_num_trusted_hops="many"),
        "a negative number": web(xff_num_trusted_hops=-1),
        "a fraction for a whole number": web(xff_num_trusted_hops=1.5),
        "a number for a text": web(server_name=42),
        "a word for a switch": web(use_remote_address="on"),
        "a text for a message": web(route_config="routes.yaml"),
        "a list for a text": web(via=["a", "b"]),
        "a mapping where a text belongs": _changed(
            lambda it: _first(it).update(name={"of": "listener"})),
        "two members of a oneof": web(route_config=hosts(), scoped_routes={"name": "s"}),
        "two sources of the client's address": web(
            use_remote_address=True, original_ip_detection_extensions=[named(
                "xff", "http.original_ip_detection.xff.v3.XffConfig", xff_num_trusted_hops=1)]),
        # Limits of Envoy's own messages.
        "no stat_prefix": web(stat_prefix=""),
        "a virtual host without a domain": web(route_config={
            "virtual_hosts": [{"name": "all", "domains": [], "routes": [EVERYTHING]}]}),
        "a virtual host without a name": web(route_config={
            "virtual_hosts": [{"domains": ["*"], "routes": [EVERYTHING]}]}),
        "a route without a match": web(route_config=hosts({"route": {"cluster": "service"}})),
        "a route without an action": web(route_config=hosts({"match": {"prefix": "/"}})),
        "a route to no cluster": web(route_config=hosts({"match": {"prefix": "/"}, "route": {}})),
        "a status of no answer": web(route_config=hosts(
            {"match": {"prefix": "/"}, "direct_response": {"status": 99}})),
        "a cluster without a name": static(listener(tcp_proxy()), clusters=(cluster(), {})),
        "a connect timeout of nothing": static(
            listener(manager()), clusters=(cluster(connect_timeout="0s"),)),
        "a health check without an interval": static(
            listener(manager()),
            clusters=(cluster(health_checks=[{
                "timeout": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
                "http_health_check": {"path": "/"}}]),)),
        "a header with a line break in its name": web(route_config=hosts(
            {**EVERYTHING, "request_headers_to_add": [{"header": {"key": "x\n", "value": "1"}}]})),
        "a port that does not exist": static(
            listener(manager(), address=socket(70000)), clusters=(cluster(),)),
        "a bucket that is never filled": web(http_filter(
            "local_ratelimit.v3.LocalRateLimit", stat_prefix="l",
            token_bucket={"max_tokens": 1})),
        "a limiter without a domain": web(
            http_filter("ratelimit.v3.RateLimit", rate_limit_service={
                "grpc_service": {"envoy_grpc": {"cluster_name": "limits"}}}),
            clusters=(http2("limits"),)),
        "a log level that does not exist": web() | {
            "admin": {"profile_path": {"of": "nothing"}}},
        # Extensions.
        "a filter without settings": web({"name": "envoy.filters.http.cors"}),
        "settings without a type": web({"name": "cors", "typed_config": {"a": 1}}),
        "a vendor's filter": web({"name": "v", "typed_config": {
            "@type": "type.googleapis.com/vendor.filters.v1.Thing", "mode": "on"}}),
        "a transport without settings": static(listener(manager()), clusters=(
            cluster(transport_socket={"name": "envoy.transport_sockets.tls"}),)),
        "a struct of settings with a wrong field": web({"name": "c", "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors",
            "value": {"origin": "*"}}}),
        "bodies in both directions without trailers": web(
            ext_proc("judge", processing_mode={"request_body_mode": "FULL_DUPLEX_STREAMED"}),
            clusters=(http2("judge"),)),
        # What does not fit together.
        "a route to a cluster that is missing": web(route_config=hosts(
            {"match": {"prefix": "/"}, "route": {"cluster": "elsewhere"}})),
        "a share for a cluster that is missing": web(route_config=hosts(
            {"match": {"prefix": "/"}, "route": {"weighted_clusters": {
                "clusters": [{"name": "service", "weight": 1}, {"name": "gone", "weight": 1}]}}})),
        "two clusters of one name": static(
            listener(manager()), clusters=(cluster(), cluster())),
        "a domain of two virtual hosts": web(route_config={"virtual_hosts": [
            {"name": "a", "domains": ["*"], "routes": [EVERYTHING]},
            {"name": "b", "domains": ["*"], "routes": [EVERYTHING]}]}),
        "no router at the end": _changed(
            lambda it: _first(it)["filter_chains"][0]["filters"][0]["typed_config"]
            ["http_filters"].append(http_filter("cors.v3.Cors"))),
        "nothing after a filter": web(http_filters=[http_filter("cors.v3.Cors")]),
        "a host name in a static cluster": static(
            listener(manager()), clusters=(cluster(host="api.example.com", type="STATIC"),)),
        "a listener on a host name": static(
            listener(manager(), address=socket(80, "localhost")), clusters=(cluster(),)),
        "a listener without a filter chain": static(
            listener(filter_chains=[]), clusters=(cluster(),)),
        "tls without a certificate": static(listener(filter_chains=[{
            "filters": [manager()],
            "transport_socket": named(
                "envoy.transport_sockets.tls",
                "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context={})}])),
        "endpoints by a control plane that is not named": static(
            listener(manager()), clusters=({"name": "service", "type": "EDS"},)),
        "a logical name with two endpoints": static(listener(manager()), clusters=({
            "name": "service", "type": "LOGICAL_DNS", "load_assignment": {
                "cluster_name": "service", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": socket(80, "a.example.com")}},
                    {"endpoint": {"address": socket(80, "b.example.com")}}]}]}},)),
    }.items()
} | {
    "a key that merges": "static_resources:\n  clusters: [&a {name: a}, {<<: *a, name: b}]\n",
    "a number with an underscore": yaml_of(web(xff_num_trusted_hops=7)).replace(": 7", ": 1_000"),
    "a list of configurations": "- admin: {}\n",
    "nothing at all": "# to be written\n",
}  # fmt: skip
