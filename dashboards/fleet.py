"""Envoy and Egret side by side: what one says of the other."""

from __future__ import annotations

from typing import Final

from dashboards.board import (
    ENVOY,
    ENVOYS,
    INSTANCE,
    Board,
    Kind,
    Panel,
    Query,
    Row,
    Unit,
    quantile,
    rate,
)

_FILTER: Final = "envoy_http_ext_proc_egret"
_EDGE: Final = f'envoy_http_conn_manager_prefix!="admin", {ENVOY}'
_PROVIDERS: Final = f'envoy_cluster_name!~"admin|egret", {ENVOY}'
_WORKERS: Final = f'envoy_cluster_name="egret", {ENVOY}'

_EDGE_ROW: Final = Row(
    "What clients meet",
    (
        Panel(
            title="Answers of Envoy, by class",
            description="All answers to clients, refusals of Egret included.",
            queries=(
                Query(
                    rate("envoy_http_downstream_rq_xx", "envoy_response_code_class", _EDGE),
                    "{{envoy_response_code_class}}xx",
                ),
            ),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
        Panel(
            title="Envoy's whole time beside Egret's own, p50",
            description=(
                "The gap between the two lines is the client's upload, Envoy and the provider."
            ),
            queries=(
                Query(
                    f"{quantile(0.5, 'envoy_http_downstream_rq_time', where=_EDGE)} / 1000",
                    "Envoy",
                ),
                Query(quantile(0.5, "egret_overhead_seconds"), "Egret"),
            ),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="Answers of providers, by class",
            description="Each provider is a cluster of Envoy.",
            queries=(
                Query(
                    rate(
                        "envoy_cluster_upstream_rq_xx",
                        "envoy_cluster_name, envoy_response_code_class",
                        _PROVIDERS,
                    ),
                    "{{envoy_cluster_name}} {{envoy_response_code_class}}xx",
                ),
            ),
            unit=Unit.REQUESTS,
        ),
    ),
)

_FILTER_ROW: Final = Row(
    "The filter between them",
    (
        Panel(
            title="Streams",
            description=(
                "One per request. Started and not closed ones are open; `failed` got 500."
            ),
            queries=tuple(
                Query(rate(f"{_FILTER}_streams_{name}", where=ENVOY), name)
                for name in ("started", "closed", "failed")
            ),
            unit=Unit.REQUESTS,
        ),
        Panel(
            title="Passed unjudged",
            description=(
                "`failure_mode_allowed`: the filter is set to continue without Egret. Should be 0."
            ),
            queries=(Query(rate(f"{_FILTER}_failure_mode_allowed", where=ENVOY)),),
            unit=Unit.REQUESTS,
        ),
        Panel(
            title="Answers Envoy could not use",
            description="Timeouts, rejected headers, unexpected messages. Should be 0.",
            queries=tuple(
                Query(rate(f"{_FILTER}_{name}", where=ENVOY), name)
                for name in (
                    "message_timeouts",
                    "rejected_header_mutations",
                    "spurious_msgs_received",
                )
            ),
        ),
    ),
)

_HEALTH_ROW: Final = Row(
    "Health",
    (
        Panel(
            title="Workers that Envoy finds healthy",
            description="Out of all workers.",
            queries=(
                Query(f"envoy_cluster_membership_healthy{{{_WORKERS}}}", "healthy {{instance}}"),
                Query(f"envoy_cluster_membership_total{{{_WORKERS}}}", "all {{instance}}"),
            ),
            width=6,
        ),
        Panel(
            title="Connections that failed",
            description="To each provider, and to workers.",
            queries=(
                Query(
                    rate("envoy_cluster_upstream_cx_connect_fail", "envoy_cluster_name", ENVOY),
                    "{{envoy_cluster_name}}",
                ),
            ),
            width=6,
        ),
        Panel(
            title="Requests made again",
            description="Only requests that a provider cannot have received are retried.",
            queries=(
                Query(
                    rate("envoy_cluster_upstream_rq_retry", "envoy_cluster_name", ENVOY),
                    "{{envoy_cluster_name}}",
                ),
            ),
            width=6,
        ),
        Panel(
            title="Memory of Envoy",
            description=(
                "What it has allocated; it refuses requests before the limit in its configuration."
            ),
            queries=(Query(f"envoy_server_memory_allocated{{{ENVOY}}}", "{{instance}}"),),
            unit=Unit.BYTES,
            width=6,
        ),
    ),
)

FLEET: Final = Board(
    "envoy-and-egret",
    "Egret: Envoy and Egret together",
    "Results for clients, the filter between Envoy and Egret, and the health of both.",
    (_EDGE_ROW, _FILTER_ROW, _HEALTH_ROW),
    (INSTANCE, ENVOYS),
)
