"""Where time goes: in Egret, in the process, and at the provider."""

from __future__ import annotations

from typing import Final

from dashboards.board import (
    EGRET,
    INSTANCE,
    Board,
    Panel,
    Query,
    Row,
    Unit,
    Variable,
    quantile,
    quantiles,
    rate,
)

_MODEL: Final = f'gen_ai_request_model=~"$model", {EGRET}'
_BY_MODEL: Final = "{{gen_ai_request_model}}"

_OWN_ROW: Final = Row(
    "Egret's own time",
    (
        Panel(
            title="Own time",
            description="Without the client's upload and the provider.",
            queries=quantiles("egret_overhead_seconds"),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="By phase, p99",
            description=(
                "`authorize` is the key, `read` the body's dialect, `guardrails` the wait for "
                "the slowest."
            ),
            queries=(Query(quantile(0.99, "egret_phase_seconds", "phase"), "{{phase}}"),),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="Bodies",
            description="Sizes of request bodies that were read.",
            queries=quantiles("egret_body_bytes"),
            unit=Unit.BYTES,
        ),
    ),
)

_PROCESS_ROW: Final = Row(
    "The processes",
    (
        Panel(
            title="Lateness of the event loop",
            description="Delay of a timer: how long a request may wait for its turn.",
            queries=quantiles("egret_event_loop_lag_seconds"),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Garbage collections, p99",
            description="Duration of one collection in a worker, by generation.",
            queries=(
                Query(
                    quantile(0.99, "egret_gc_pause_seconds", "generation"),
                    "generation {{generation}}",
                ),
            ),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Exchanges being judged",
            description=(
                "Now, by instance. Requests a second times their own time, unless something waits."
            ),
            queries=(Query(f"egret_in_flight_exchanges{{{EGRET}}}", "{{instance}}"),),
            width=6,
        ),
        Panel(
            title="Spans on their way",
            description="Spans per second: recorded, accepted by the collector, and lost.",
            queries=(Query(rate("egret_spans_total", "state"), "{{state}}"),),
            width=6,
        ),
    ),
)

_ANSWER_ROW: Final = Row(
    "Answers, by model",
    (
        Panel(
            title="Time to first token, p50",
            description=(
                "Streams: from the first byte of the request to the first of the answer's body."
            ),
            queries=(
                Query(
                    quantile(
                        0.5,
                        "gen_ai_server_time_to_first_token_seconds",
                        "gen_ai_request_model",
                        _MODEL,
                    ),
                    _BY_MODEL,
                ),
            ),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Time between tokens, p50",
            description="Streams: mean seconds between two tokens of one answer.",
            queries=(
                Query(
                    quantile(
                        0.5,
                        "gen_ai_server_time_per_output_token_seconds",
                        "gen_ai_request_model",
                        _MODEL,
                    ),
                    _BY_MODEL,
                ),
            ),
            unit=Unit.SECONDS,
            width=6,
        ),
        Panel(
            title="Tokens a second, p50",
            description="Streams: speed of one answer after its first token.",
            queries=(
                Query(
                    quantile(
                        0.5, "egret_output_tokens_per_second", "gen_ai_request_model", _MODEL
                    ),
                    _BY_MODEL,
                ),
            ),
            width=6,
        ),
        Panel(
            title="Whole requests, p95",
            description=(
                "From the first byte of the request to the last of the answer; good answers."
            ),
            queries=(
                Query(
                    quantile(
                        0.95,
                        "gen_ai_server_request_duration_seconds",
                        "gen_ai_request_model",
                        f'error_type="none", {_MODEL}',
                    ),
                    _BY_MODEL,
                ),
            ),
            unit=Unit.SECONDS,
            width=6,
        ),
    ),
)

PERFORMANCE: Final = Board(
    "performance",
    "Egret: performance",
    "Time in Egret, in its processes, and at the provider.",
    (_OWN_ROW, _PROCESS_ROW, _ANSWER_ROW),
    (
        INSTANCE,
        Variable(
            "model",
            "Model",
            "label_values(gen_ai_server_request_duration_seconds_count, gen_ai_request_model)",
        ),
    ),
)
