from __future__ import annotations

import pytest

from loadtest.bench_full import VARIANTS
from loadtest.targets import AIMS, Aim, Bound, targets_grid


@pytest.mark.parametrize(
    ("bound", "measured", "reached"),
    [
        (Bound.BELOW, 0.59, "yes"),
        (Bound.BELOW, 0.6, "no"),
        (Bound.AT_LEAST, 0.6, "yes"),
        (Bound.AT_LEAST, 0.59, "no"),
    ],
)
def test_an_aim_is_reached_on_its_own_side(bound: Bound, measured: float, reached: str) -> None:
    """The figure is shown beside what was wanted, whatever came of it."""
    aim = Aim("p50", "bench", lambda figures: figures["p50"], bound, 0.6, "ms")
    (row,) = targets_grid([aim], {"bench": {"p50": measured}}).rows
    assert row == ["p50", f"{bound.value} 0.6 ms", f"{measured} ms", reached]


def test_every_aim_reads_figures_that_its_result_has() -> None:
    """By the names under which the benches write them."""
    engine = ("added_p50_ms", "added_p99_ms", "rps", "p50_ms", "p99_ms", "worker_cpu_us")
    results = {
        "bench": {
            f"{target}.{load}.{name}": 1.0
            for target in ("h2corn", "grpcio")
            for load in ("c1", "c16", "open2000")
            for name in engine
        },
        "bench-full": {f"h2corn.{variant.name}.worker_cpu_us": 1.0 for variant in VARIANTS}
        | {f"{engine}.full_cache.rss_mb": 1.0 for engine in ("h2corn", "grpcio")},
        "bench-peers": {
            f"{peer}.{load}.{name}": 1.0
            for peer in ("Egret h2corn", "LiteLLM guarded", "Portkey")
            for load in ("c1", "c16")
            for name in ("rps", "p50_ms")
        },
    }
    assert len(targets_grid(AIMS, results).rows) == len(AIMS) == 19
