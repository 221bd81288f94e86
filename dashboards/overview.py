"""The first dashboard to open: is it us, Envoy or the provider, and since when?"""

from __future__ import annotations

from typing import Final

from dashboards.board import (
    EGRET,
    RATE,
    Board,
    Kind,
    Panel,
    Query,
    Row,
    Unit,
    quantile,
    quantiles,
    rate,
)

_ENDED: Final = rate("egret_exchanges_total")
_FAILED: Final = rate("egret_exchanges_total", where=f'outcome="failed", {EGRET}')
_OPEN: Final = f'mode="enforce", verdict=~"error_open|timeout_open", {EGRET}'
_DURATION: Final = "gen_ai_server_request_duration_seconds"

_NOW: Final = Row(
    "Now",
    (
        Panel(
            title="Requests",
            description="Finished requests per second, whatever their outcome.",
            queries=(Query(_ENDED),),
            unit=Unit.REQUESTS,
            kind=Kind.NUMBER,
            width=4,
        ),
        Panel(
            title="Failed",
            description=(
                "Share of requests that Egret could not check and failed closed. The objective is "
                "0.1 %."
            ),
            queries=(Query(f"({_FAILED} or vector(0)) / {_ENDED}"),),
            unit=Unit.SHARE,
            kind=Kind.NUMBER,
            width=4,
        ),
        Panel(
            title="Own time, p99",
            description=(
                "Time that Egret adds to all but one in a hundred requests, without upload and "
                "provider."
            ),
            queries=(Query(quantile(0.99, "egret_overhead_seconds")),),
            unit=Unit.SECONDS,
            kind=Kind.NUMBER,
            width=4,
        ),
        Panel(
            title="Passed unjudged",
            description=(
                "Guardrails that failed and let a request pass, within the selected time. Should "
                "be 0."
            ),
            queries=(
                Query(
                    f"sum(increase(egret_guardrail_verdicts_total{{{_OPEN}}}[$__range]))"
                    " or vector(0)"
                ),
            ),
            kind=Kind.NUMBER,
            width=4,
        ),
        Panel(
            title="Workers",
            description="Running worker processes of all scraped supervisors.",
            queries=(Query(f"sum(egret_workers_running{{{EGRET}}})"),),
            kind=Kind.NUMBER,
            width=4,
        ),
        Panel(
            title="Being judged",
            description="Requests being checked now. It grows while they wait for something.",
            queries=(Query(f"sum(egret_in_flight_exchanges{{{EGRET}}})"),),
            kind=Kind.NUMBER,
            width=4,
        ),
    ),
)

_WHOSE: Final = Row(
    "Is it us, or the provider?",
    (
        Panel(
            title="Outcomes",
            description=(
                "Outcomes of requests. Only `failed` is Egret's fault; `refused` is its purpose."
            ),
            queries=(Query(rate("egret_exchanges_total", "outcome"), "{{outcome}}"),),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
        Panel(
            title="Why requests were refused or failed",
            description=(
                "By the code that the client received. `Envoy: no verdict`: Envoy reached no "
                "worker, and refused the request itself."
            ),
            queries=(
                Query(
                    rate("egret_exchanges_total", "error", f'error!="none", {EGRET}'), "{{error}}"
                ),
                Query(
                    rate("envoy_http_ext_proc_egret_streams_failed", where=""), "Envoy: no verdict"
                ),
            ),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
        Panel(
            title="What providers answered",
            description=(
                "By status of an error; `none` is a good answer, `refused` never reached a "
                "provider."
            ),
            queries=(
                Query(
                    rate(f"{_DURATION}_count", "gen_ai_provider_name, error_type"),
                    "{{gen_ai_provider_name}} {{error_type}}",
                ),
            ),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
    ),
)

_TIME: Final = Row(
    "How long it takes, and what went wrong",
    (
        Panel(
            title="Own time",
            description=(
                "Egret's own share of a request, without the client's upload and the provider."
            ),
            queries=quantiles("egret_overhead_seconds"),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="Whole requests, p50",
            description=(
                "From the first byte of the request to the last of the answer, by provider. Far "
                "above Egret's own time: it is the provider."
            ),
            queries=(
                Query(
                    quantile(
                        0.5,
                        _DURATION,
                        "gen_ai_provider_name",
                        f'error_type="none", {EGRET}',
                    ),
                    "{{gen_ai_provider_name}}",
                ),
            ),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="Faults",
            description=(
                "Protocol violations, exceptions, missed deadlines, lost telemetry. Should be 0."
            ),
            queries=(Query(rate("egret_exchange_faults_total", "kind"), "{{kind}}"),),
        ),
    ),
)

_HEALTH: Final = Row(
    "What it depends on",
    (
        Panel(
            title="Age of policies",
            description=(
                "Seconds since the last read of policies, in the worker that lags most. They "
                "are read every 30 s."
            ),
            queries=(
                Query(
                    f"time() - (egret_policies_read_timestamp_seconds{{{EGRET}}} > 0)",
                    "{{instance}}",
                ),
            ),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Subscribed to changes of keys",
            description="1 while every worker is subscribed to revocations; 0 if one is not.",
            queries=(Query(f"egret_key_notifications_connected{{{EGRET}}}", "{{instance}}"),),
            width=6,
        ),
        Panel(
            title="Oldest usage on disk",
            description=(
                "How long usage waits for the database. Minutes mean that the database does "
                "not accept it."
            ),
            queries=(Query(f"egret_usage_spool_oldest_seconds{{{EGRET}}}", "{{instance}}"),),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Workers that died",
            description="Workers that ended unexpectedly, within the rate's interval.",
            queries=(
                Query(f"increase(egret_worker_deaths_total{{{EGRET}}}{RATE})", "{{instance}}"),
            ),
            width=6,
        ),
    ),
)

OVERVIEW: Final = Board(
    "overview",
    "Egret: overview",
    "Shows whether Egret, Envoy or the provider has a problem, and since when. Open it first.",
    (_NOW, _WHOSE, _TIME, _HEALTH),
)
