"""Figures, tables and the chart of `bench-conversation`, from the costs of each round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from egret_tools.conversations import Shape

from loadtest import bench_against
from loadtest.conversations.clients import Cost
from loadtest.results import Grid
from loadtest.targets import COLD_TARGET, RATIO_TARGETS

NOW: Final = "egret"
WITHOUT: Final = "without"
SMALL: Final = "small"
KEPT: Final = "kept"
TWO: Final = "two"
EVERY: Final = "every"
EVERY_WITHOUT: Final = "every-without"
EVERY_KEPT: Final = "every-kept"
REV: Final = "rev"
SIDES: Final = {
    NOW: "this checkout",
    TWO: "this checkout, two workers",
    WITHOUT: "without the table",
    REV: "REV",
}
"""Sides of tables and chart, in this order. `SMALL` has the smallest table; for `KEPT` Envoy keeps
each body (BUFFERED), and does not receive it back."""
EVERY_SIDES: Final = {EVERY: NOW, EVERY_WITHOUT: WITHOUT, EVERY_KEPT: KEPT}
"""Those by a policy with every local guardrail, and the sides that they are otherwise."""

SIZES: Final = {"64k": 64 * 1024, "256k": 256 * 1024, "1m": 1024 * 1024}
FIRST: Final = "first_turn"
NEXT: Final = "next_turn"
CASES: Final = {
    "new_prompt": "another system prompt",
    "trimmed": "without the ten oldest messages",
    "edited": "a byte changed in every message",
    "thrashed": "more of them than the table holds",
    "tiny": "a first turn of 1,500 messages",
}
"""Requests that the table can help only in part, or not at all."""


@dataclass(slots=True)
class Series(bench_against.Series):
    """Values of rounds, by `<side>.<figure>`, and all failures, `failed` those of each side."""

    failed: dict[str, int] = field(default_factory=dict)

    def add_costs(self, key: str, costs: Mapping[str, Cost]) -> None:
        """Append the cost of each side or gateway, `<name>.<key>_cpu_us` and its Envoy's."""
        for name, cost in costs.items():
            self.add(f"{name}.{key}_cpu_us", cost.own_us)
            self.add(f"{name}.{key}_envoy_cpu_us", cost.envoy_us)
            self.errors += cost.failed
            if cost.failed:
                self.failed[name] = self.failed.get(name, 0) + cost.failed


def conversation_figures(series: Series) -> dict[str, float]:
    """Return medians and ratios. A ratio is taken of neighbours in time, before the median."""
    figures: dict[str, float] = {"errors": series.errors}
    figures |= {key: statistics.median(values) for key, values in series.values.items()}
    for size in SIZES:
        for side, cold_side, kept_side in (
            (NOW, WITHOUT, KEPT),
            (EVERY, EVERY_WITHOUT, EVERY_KEPT),
        ):
            first, cold = (f"{one}.{size}.{FIRST}_cpu_us" for one in (side, cold_side))
            then = f"{side}.{size}.{NEXT}_cpu_us"
            figures |= _ratios(f"{side}.{size}.ratio", series, then, first)
            figures |= _ratios(f"{side}.{size}.first_of_cold", series, first, cold)
            kept = [f"{kept_side}.{size}.{turn}_cpu_us" for turn in (NEXT, FIRST)]
            figures |= _ratios(f"{side}.{size}.kept_ratio", series, *kept)
        before = f"{REV}.{size}.{NEXT}_cpu_us"
        figures |= _ratios(
            f"{NOW}.{size}.next_of_rev", series, f"{NOW}.{size}.{NEXT}_cpu_us", before
        )
        kept_next = f"{KEPT}.{size}.{NEXT}_cpu_us"
        figures |= _ratios(f"{NOW}.{size}.kept_of_rev", series, kept_next, before)
        if f"{WITHOUT}.{size}.{FIRST}_cpu_us" in figures:
            figures[f"{NOW}.{size}.cold_cpu_us"] = figures[f"{WITHOUT}.{size}.{FIRST}_cpu_us"]
    for case in CASES:
        mine = f"{SMALL if case == 'thrashed' else NOW}.{case}_cpu_us"
        figures |= _ratios(f"{NOW}.{case}.ratio", series, mine, f"{WITHOUT}.{case}_cpu_us")
    for name in ("hit_rate", "table_mb"):
        found = [figures[key] for size in SIZES if (key := f"{NOW}.{size}.{name}") in figures]
        if found:
            figures[name] = min(found) if name == "hit_rate" else max(found)
    return figures


def _ratios(name: str, series: Series, key: str, through: str) -> dict[str, float]:
    mine, theirs = series.values.get(key, []), series.values.get(through, [])
    if not mine or not theirs:
        return {}
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    return {
        name: statistics.median(ratios),
        f"{name}_min": min(ratios),
        f"{name}_max": max(ratios),
    }


def turns_grid(figures: Mapping[str, float], sizes: Iterable[str]) -> Grid:
    """Return a line a size: a conversation that is new, and its next turn."""
    rows = [
        [
            size,
            *(
                _number(figures, f"{NOW}.{size}.{key}", 0)
                for key in ("cold_cpu_us", "first_turn_cpu_us", "next_turn_cpu_us")
            ),
            _number(figures, f"{KEPT}.{size}.{NEXT}_cpu_us", 0),
            _number(figures, f"{REV}.{size}.{NEXT}_cpu_us", 0),
            _number(figures, f"{NOW}.{size}.known_share", 3),
            _number(figures, f"{NOW}.{size}.table_mb", 2),
        ]
        for size in sizes
    ]
    rows += [
        [
            f"{size}, every guardrail",
            *(
                _number(figures, f"{side}.{size}.{turn}_cpu_us", 0)
                for side, turn in (
                    (EVERY_WITHOUT, FIRST),
                    (EVERY, FIRST),
                    (EVERY, NEXT),
                    (EVERY_KEPT, NEXT),
                )
            ),
            *("-" for _ in range(3)),
        ]
        for size in sizes
        if f"{EVERY}.{size}.ratio" in figures
    ]
    columns = ("body", "no table µs", "first µs", "next µs", "kept next µs",
               "REV next µs", "known", "table MB")  # fmt: skip
    return Grid("CPU of a new conversation of 40 messages, and of its next turn", columns, rows)


def ratios_grid(figures: Mapping[str, float], sizes: Iterable[str]) -> Grid:
    """Return a line for each ratio that was measured, with its range and target."""
    rows = [
        [size, words, *_ranged(figures, f"{side}.{size}.{key}", target)]
        for size in sizes
        for side, key, words, target in (
            (NOW, "ratio", "next turn / first turn", RATIO_TARGETS[size]),
            (EVERY, "ratio", "the same, with every guardrail", RATIO_TARGETS[size]),
            (NOW, "kept_ratio", "the same, bodies kept by Envoy", RATIO_TARGETS[size]),
            (EVERY, "kept_ratio", "the same, every guardrail and kept", RATIO_TARGETS[size]),
            (NOW, "first_of_cold", "first turn / the same without the table", COLD_TARGET),
            (EVERY, "first_of_cold", "the same, with every guardrail", COLD_TARGET),
            (NOW, "next_of_rev", "next turn / the same at REV", RATIO_TARGETS[size]),
            (NOW, "kept_of_rev", "the same, bodies kept by Envoy", RATIO_TARGETS[size]),
        )
        if f"{side}.{size}.{key}" in figures
    ]
    return Grid("Ratios", ("body", "figure", "ratio", "range", "target"), rows, labels=2)


def growth_grid(figures: Mapping[str, float], shapes: Sequence[Shape]) -> Grid:
    """Return a line for each shape and side: cost at the first, a middle and the last turn."""
    rows: list[list[str]] = []
    for shape in shapes:
        for side, words in SIDES.items():
            costs = _by_turn(figures, _key(shape, side))
            if not costs:
                continue
            marks = (1, len(costs) // 2, len(costs))
            kib = figures[f"{slug(shape)}.last_turn_kib"]
            known = _number(figures, f"{_key(shape, side)}.known_share", 3)
            shown = [f"{costs[turn - 1]:,.0f}" for turn in marks]
            rows.append([shape.value, words, f"{len(costs)}", f"{kib:,.0f}", *shown, known])
    columns = ("conversation", "side", "turns", "KiB at last", "first µs", "middle µs", "last µs",
               "known")  # fmt: skip
    return Grid("CPU of Egret by turn", columns, rows, labels=2)


def cases_grid(figures: Mapping[str, float]) -> Grid:
    """Return a line for each kind of request that the table can hardly help."""
    rows = [
        [
            words,
            _number(figures, f"{WITHOUT}.{case}_cpu_us", 0),
            _number(figures, f"{SMALL if case == 'thrashed' else NOW}.{case}_cpu_us", 0),
            *_ranged(figures, f"{NOW}.{case}.ratio", COLD_TARGET),
            _number(figures, f"{NOW}.{case}.known_share", 3),
        ]
        for case, words in CASES.items()
        if f"{NOW}.{case}.ratio" in figures
    ]
    columns = ("next turns", "no table µs", "with it µs", "ratio", "range", "target",
               "known")  # fmt: skip
    return Grid("Requests that the table can hardly help", columns, rows)


def peers_grid(
    figures: Mapping[str, float], peers: Mapping[str, str], sizes: Iterable[str]
) -> Grid:
    """Return a line for each size and gateway; Egret's CPU includes its Envoy's."""
    rows: list[list[str]] = []
    for size in sizes:
        for name, switched_on in {NOW: "key, default policy", **peers}.items():
            first, then = (
                sum(figures[f"{name}.{size}.{turn}_{part}"] for part in ("cpu_us", "envoy_cpu_us"))
                for turn in (FIRST, NEXT)
            )
            title = "Egret" if name == NOW else name
            rows.append(
                [size, title, switched_on, f"{first:,.0f}", f"{then:,.0f}", f"{then / first:.2f}"]
            )
    columns = ("body", "gateway", "switched on", "first µs", "next µs", "next / first")
    return Grid("The same conversations through other gateways", columns, rows, labels=3)


def growth_plot(figures: Mapping[str, float], shapes: Sequence[Shape], *, path: Path) -> None:
    """Draw the cost of each turn, a panel for each shape and a line for each side."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 3)
    for axes, shape in zip(panels.flat, shapes, strict=True):
        for number, (side, words) in enumerate(SIDES.items()):
            costs = _by_turn(figures, _key(shape, side))
            if costs:
                turns = range(1, len(costs) + 1)
                axes.plot(
                    turns,
                    [cost / 1000 for cost in costs],
                    marker=".",
                    color=f"C{number}",
                    label=words,
                )
        kib = figures[f"{slug(shape)}.last_turn_kib"]
        axes.set(title=f"{shape.value}, to {kib:,.0f} KiB", xlabel="turn", ylim=(0, None))
        axes.grid(visible=True, alpha=0.3)
    figure.supylabel("CPU of Egret, ms a request")
    panels[0, 0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def slug(shape: Shape) -> str:
    """Return the shape's name in keys."""
    return shape.value.replace(" ", "_")


def turn_key(shape: Shape, turn: int) -> str:
    """Return the middle of a figure's key: `<side>.<shape>.turn<nn>`."""
    return f"{slug(shape)}.turn{turn:02}"


def _key(shape: Shape, side: str) -> str:
    return f"{side}.{slug(shape)}"


def _by_turn(figures: Mapping[str, float], start: str) -> list[float]:
    costs: list[float] = []
    while (cost := figures.get(f"{start}.turn{len(costs) + 1:02}_cpu_us")) is not None:
        costs.append(cost)
    return costs


def _number(figures: Mapping[str, float], key: str, digits: int) -> str:
    return f"{figures[key]:,.{digits}f}" if key in figures else "-"


def _ranged(figures: Mapping[str, float], key: str, at_most: float) -> list[str]:
    """Return a ratio, its range, and its target, with a word if it is missed."""
    ratio, low, high = (figures[f"{key}{end}"] for end in ("", "_min", "_max"))
    missed = "" if ratio <= at_most else ", missed"
    return [f"{ratio:.3f}", f"{low:.3f}-{high:.3f}", f"≤ {at_most:.2f}{missed}"]
