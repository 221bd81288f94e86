"""Money and tokens, and whether they reach the database."""

from __future__ import annotations

from typing import Final

from dashboards.board import EGRET, INSTANCE, Board, Kind, Panel, Query, Row, Unit, Variable, rate

_MODEL: Final = f'gen_ai_request_model=~"$model", {EGRET}'
_BY_MODEL: Final = "{{gen_ai_request_model}}"

_MONEY_ROW: Final = Row(
    "Money",
    (
        Panel(
            title="Spent",
            description=(
                "US dollars within the selected time, by the prices in the database; estimates "
                "included."
            ),
            queries=(Query(f"sum(increase(egret_cost_usd_total{{{_MODEL}}}[$__range]))"),),
            unit=Unit.DOLLARS,
            kind=Kind.NUMBER,
            width=6,
        ),
        Panel(
            title="An hour, by model",
            description=(
                "US dollars an hour at the present rate. For billing use `egret usage report`."
            ),
            queries=(
                Query(
                    f"3600 * {rate('egret_cost_usd_total', 'gen_ai_request_model', _MODEL)}",
                    _BY_MODEL,
                ),
            ),
            unit=Unit.DOLLARS,
            kind=Kind.STACKED,
            width=12,
        ),
        Panel(
            title="Requests without a price",
            description=(
                "Requests within the selected time whose model has no price: no budget counts "
                "them."
            ),
            queries=(Query(f"sum(increase(egret_cost_unknown_total{{{EGRET}}}[$__range]))"),),
            kind=Kind.NUMBER,
            width=6,
        ),
    ),
)

_TOKENS_ROW: Final = Row(
    "Tokens",
    (
        Panel(
            title="Tokens a second, by type",
            description="As their providers counted them, without estimates.",
            queries=(
                Query(
                    rate("gen_ai_client_token_usage_sum", "gen_ai_token_type", _MODEL),
                    "{{gen_ai_token_type}}",
                ),
            ),
            kind=Kind.STACKED,
        ),
        Panel(
            title="Tokens a second, by model",
            description="Input and output together.",
            queries=(
                Query(
                    rate("gen_ai_client_token_usage_sum", "gen_ai_request_model", _MODEL),
                    _BY_MODEL,
                ),
            ),
            kind=Kind.STACKED,
        ),
        Panel(
            title="Requests a second, by model",
            description="Those that a provider served; the rest is `other`.",
            queries=(
                Query(
                    rate(
                        "gen_ai_server_request_duration_seconds_count",
                        "gen_ai_request_model",
                        _MODEL,
                    ),
                    _BY_MODEL,
                ),
            ),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
    ),
)

_RECORDS_ROW: Final = Row(
    "On the way to the database",
    (
        Panel(
            title="Records, by how tokens are known",
            description=(
                "`reported` by the provider, `estimated`, or `lost` with a process that died."
            ),
            queries=(Query(rate("egret_usage_records_total", "tokens"), "{{tokens}}"),),
            width=6,
        ),
        Panel(
            title="On disk",
            description="Bytes of usage that are not in the database yet.",
            queries=(Query(f"egret_usage_spool_bytes{{{EGRET}}}", "{{instance}}"),),
            unit=Unit.BYTES,
            width=6,
        ),
        Panel(
            title="Oldest on disk",
            description="How long it has waited.",
            queries=(Query(f"egret_usage_spool_oldest_seconds{{{EGRET}}}", "{{instance}}"),),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Lost",
            description="Lost usage, by reason, and refused records, to try again. Should be 0.",
            queries=(
                Query(rate("egret_usage_lost_total", "reason"), "{{reason}}"),
                Query(rate("egret_usage_records_refused_total"), "refused"),
            ),
            width=6,
        ),
    ),
)

COST: Final = Board(
    "cost",
    "Egret: cost",
    (
        "Money and tokens by model, and whether usage reaches the database. By team and key: "
        "`egret usage report`."
    ),
    (_MONEY_ROW, _TOKENS_ROW, _RECORDS_ROW),
    (
        INSTANCE,
        Variable(
            "model", "Model", "label_values(gen_ai_client_token_usage_count, gen_ai_request_model)"
        ),
    ),
)
