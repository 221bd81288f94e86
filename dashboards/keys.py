"""Keys, their caches, how fast changes arrive, and limits."""

from __future__ import annotations

from typing import Final

from dashboards.board import EGRET, Board, Kind, Panel, Query, Row, Unit, quantiles, rate

_JUDGED: Final = "egret_authorizations_total"
_ASKED: Final = f'tier!="none", {EGRET}'
_OWN: Final = f'tier=~"l1|negative", {EGRET}'

_KEYS_ROW: Final = Row(
    "Keys",
    (
        Panel(
            title="Judged keys",
            description="By outcome. Many invalid ones point to an attack.",
            queries=(Query(rate(_JUDGED, "outcome"), "{{outcome}}"),),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
        Panel(
            title="Who answered for a key",
            description=(
                "`l1` the worker's own cache, `l2` Valkey, `store` the database, `stale` the last "
                "cached record."
            ),
            queries=(Query(rate(_JUDGED, "tier"), "{{tier}}"),),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
        Panel(
            title="Found in the worker's own cache",
            description="Share of keys that needed no look-up elsewhere.",
            queries=(Query(f"{rate(_JUDGED, where=_OWN)} / {rate(_JUDGED, where=_ASKED)}"),),
            unit=Unit.SHARE,
        ),
    ),
)

_CACHE_ROW: Final = Row(
    "Caches and changes",
    (
        Panel(
            title="From a change to its effect",
            description="Seconds from the commit of a change to keys until a worker applies it.",
            queries=quantiles("egret_revocation_seconds"),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Keys in caches, look-ups under way",
            description="Of all live workers. Look-ups pile up when the database is slow.",
            queries=(
                Query(f"sum(egret_key_cache_entries{{{EGRET}}})", "cached"),
                Query(f"sum(egret_key_loads{{{EGRET}}})", "look-ups"),
            ),
            width=6,
        ),
        Panel(
            title="Shared cache",
            description="Operations on Valkey, by outcome.",
            queries=(
                Query(rate("egret_shared_cache_operations_total", "outcome"), "{{outcome}}"),
            ),
            width=6,
        ),
        Panel(
            title="Connections to PostgreSQL",
            description="In the pools of all live workers, and the maximum.",
            queries=(
                Query(f"sum by (state) (egret_database_connections{{{EGRET}}})", "{{state}}"),
                Query(f"sum(egret_database_connections_limit{{{EGRET}}})", "limit"),
            ),
            width=6,
        ),
    ),
)

_LIMITS_ROW: Final = Row(
    "Limits",
    (
        Panel(
            title="Decisions",
            description=(
                "Requests of keys with limits, by decision and by counters used: `local` while "
                "Valkey is away."
            ),
            queries=(
                Query(
                    rate("egret_limit_decisions_total", "decision, counts"),
                    "{{decision}} {{counts}}",
                ),
            ),
            unit=Unit.REQUESTS,
            kind=Kind.STACKED,
        ),
        Panel(
            title="What was short",
            description="Refused requests by measure and by the level of the limit.",
            queries=(
                Query(
                    f"topk(8, {rate('egret_limit_refusals_total', 'measure, level')})",
                    "{{level}} {{measure}}",
                ),
            ),
            unit=Unit.REQUESTS,
        ),
        Panel(
            title="Workers on their own, corrections that wait",
            description="Both should be 0 or fall: they grow while Valkey does not answer.",
            queries=(
                Query(f"sum(egret_limits_local{{{EGRET}}})", "on their own"),
                Query(f"sum(egret_limit_corrections_waiting{{{EGRET}}})", "corrections"),
            ),
        ),
    ),
)

KEYS: Final = Board(
    "keys-and-limits",
    "Egret: keys and limits",
    "Accepted and refused keys, cache tiers, the delay of changes, and refusals by limits.",
    (_KEYS_ROW, _CACHE_ROW, _LIMITS_ROW),
)
