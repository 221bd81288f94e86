"""The targets of cost and latency, beside the published figures.

    python -m loadtest.targets

Reads docs/figures, prints one line for each target, missed ones in red, and writes the same table
into docs/performance.md. The benches do so as well when they publish.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.results import PAGE, PUBLISHED, Grid, new_console, write_section

SOURCES: Final = ("bench-against", "bench-peers", "bench-conversation")
MISSED: Final = "🔴 missed"
RATIO_TARGETS: Final = {"64k": 0.20, "256k": 0.10, "1m": 0.08}
"""Of the next turn of a conversation through its first, by the size of its body.

They were set when a first turn cost what it costs at c4c6e19, so the next turn is shown beside
that price as well.
"""
COLD_TARGET: Final = 1.05
"""Of a first turn through the same without the table of known messages."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio to reach, `key` of the figures of `source`, or `key` through `of`."""

    words: str
    source: str
    key: str
    bound: float
    of: str | None = None
    more_is_better: bool = False

    def reached(self, figures: Mapping[str, float]) -> float | None:
        """Return the ratio that was measured, None if it was not."""
        if self.key not in figures or (self.of is not None and self.of not in figures):
            return None
        return figures[self.key] / (1 if self.of is None else figures[self.of])


_COLD: Final = dict.fromkeys(RATIO_TARGETS, COLD_TARGET)
_REV: Final = "bench-against"
_PEERS: Final = "bench-peers"
_TURNS: Final = "bench-conversation"
AIMS: Final = (
    Aim("Egret's CPU, 16 connections", _REV, "h2corn.c16.cpu", 0.42),
    Aim(
        "Egret's CPU through that of a Go server that checks nothing",
        _REV,
        "h2corn.c16.cpu_of_go",
        3.0,
    ),
    Aim("Envoy's CPU, 16 connections", _REV, "h2corn.c16.envoy_cpu", 0.85),
    Aim("requests a second, 16 connections", _REV, "h2corn.c16.rps", 1.8, more_is_better=True),
    Aim("added median latency, 1 connection", _REV, "h2corn.c1.added_p50", 0.60),
    Aim("p99 latency at half of the former peak", _REV, "h2corn.open.p99", 0.50),
    Aim(
        "Egret's CPU, 16 connections, beside the former server `grpcio`",
        _REV,
        "grpcio.c16.cpu",
        0.60,
    ),
    Aim("Egret's CPU, 64 KB bodies", _REV, "h2corn.64k.cpu", 0.50),
    Aim("Egret's CPU, a chunk of a guarded stream", _REV, "h2corn.chunk.cpu", 0.60),
    Aim("added median time to the first event", _REV, "h2corn.ttft.added_p50", 0.50),
    Aim(
        "requests a second, 16 connections, through LiteLLM's with patterns",
        _PEERS,
        "Egret.c16.rps",
        35,
        "LiteLLM guarded.c16.rps",
        more_is_better=True,
    ),
    Aim(
        "median latency of LiteLLM with patterns, 1 connection, through Egret's",
        _PEERS,
        "LiteLLM guarded.c1.p50_ms",
        12,
        "Egret.c1.p50_ms",
        more_is_better=True,
    ),
    Aim(
        "requests a second, 16 connections, through Portkey's, which checks nothing",
        _PEERS,
        "Egret.c16.rps",
        1.1,
        "Portkey.c16.rps",
        more_is_better=True,
    ),
    *(
        Aim(f"Egret's CPU, {words.format(size)}", _TURNS, f"{side}.{size}.{key}", bound)
        for words, side, key, bounds in (
            ("next turn of {} through the first", "egret", "ratio", RATIO_TARGETS),
            (
                "next turn of {} through the first, every guardrail",
                "every",
                "ratio",
                RATIO_TARGETS,
            ),
            (
                "next turn of {} through the first, every guardrail, bodies kept by Envoy",
                "every",
                "kept_ratio",
                RATIO_TARGETS,
            ),
            ("next turn of {} through the same at c4c6e19", "egret", "next_of_rev", RATIO_TARGETS),
            ("first turn of {} through one without the table", "egret", "first_of_cold", _COLD),
            (
                "first turn of {} through one without the table, every guardrail",
                "every",
                "first_of_cold",
                _COLD,
            ),
        )
        for size, bound in bounds.items()
    ),
)
"""The first ten, and those that name it, are ratios to c4c6e19, the last commit before requests
were made cheaper."""


def main() -> int:
    """Show the table and write it into the page."""
    write_targets().show(new_console())
    return 0


def write_targets(*, page: Path = PAGE, published: Path = PUBLISHED) -> Grid:
    """Write the table of the published figures into *page*, and return it."""
    files = {name: json.loads((published / f"{name}.json").read_text("utf-8")) for name in SOURCES}
    grid = targets_grid(files)
    runs = "; ".join(
        f"[{name}](figures/{name}.json): commit {file['commit']}, {file['machine']}"
        for name, file in files.items()
    )
    write_section("targets", f"{grid.as_markdown()}\n\n{runs}.", page=page)
    return grid


def targets_grid(files: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return a line for each target; a ratio that was not measured is a dash."""
    rows: list[list[str]] = []
    for aim in AIMS:
        ratio = aim.reached(files[aim.source])
        bound = f"{'≥' if aim.more_is_better else '≤'} {aim.bound:.2f}"
        if ratio is None:
            rows.append([aim.words, "–", bound, ""])  # noqa: RUF001 - a dash
            continue
        is_reached = ratio >= aim.bound if aim.more_is_better else ratio <= aim.bound
        rows.append([aim.words, f"{ratio:.3f}", bound, "reached" if is_reached else MISSED])
    return Grid("Targets", ("ratio", "measured", "target", ""), rows)


if __name__ == "__main__":
    sys.exit(main())
