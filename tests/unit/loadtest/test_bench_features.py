from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.bench_features import CHAIN, features_grid, features_plot, waterfall_steps
from loadtest.bench_report import bench_plot, quantiles
from loadtest.feature_stack import FEATURES, POLICIES, Feature
from loadtest.load import Load
from sidecar.domain.policy import Stage
from sidecar.policy.parse import parse_documents

NAMES = ("rps", "p50_ms", "p99_ms", "worker_cpu_us", "envoy_cpu_us", "errors")


def figures() -> dict[str, float]:
    """Each feature costs a worker ten microseconds more than the one before, Envoy fifty."""
    found: dict[str, float] = {}
    for number, feature in enumerate(FEATURES):
        for load in ("c1", "c16"):
            key = f"h2corn.{feature.name}.{load}"
            found |= {f"{key}.{name}": 50.0 for name in NAMES}
            found[f"{key}.worker_cpu_us"] = 10.0 * number
    return found


def test_a_waterfall_adds_up_to_the_last_feature() -> None:
    """Each bar begins where the one before it ends; what is apart from the chain is left out."""
    steps = waterfall_steps(figures(), "h2corn")
    assert [name for name, _, _ in steps] == [feature.name for feature in CHAIN]
    assert steps[0][1:] == (0, 50)
    assert [more for _, _, more in steps[1:]] == [10] * (len(CHAIN) - 1)
    assert [low for _, low, _ in steps[1:]] == [low + more for _, low, more in steps[:-1]]


def test_features_are_shown_and_drawn(tmp_path: Path) -> None:
    """A line a feature."""
    grid = features_grid(figures(), "h2corn")
    assert [row[1] for row in grid.rows] == [feature.name for feature in FEATURES]
    assert grid.rows[1][2:] == ["50.00", "50.00", "50", "50.00", "10", "50"]
    features_plot(figures(), ["h2corn"], path=tmp_path / "features.png")
    assert (tmp_path / "features.png").stat().st_size > 10_000


def test_policies_of_the_features_differ_in_what_they_are_named_for() -> None:
    """One judges nothing, one is the default by another name, one judges answers as well."""
    nothing, limited, window = (document.policy for document in parse_documents(POLICIES))
    assert [policy.name for policy in (nothing, limited, window)] == [
        "nothing",
        "limited",
        "window",
    ]
    assert nothing.guardrails == ()
    assert [one.name for one in limited.guardrails] == [one.name for one in window.guardrails]
    assert not any(one.stage is Stage.BOTH for one in limited.guardrails)
    assert [one.stage is Stage.BOTH for one in window.guardrails] == [True, True, False]


def test_latencies_are_drawn_from_the_least_to_the_most(tmp_path: Path) -> None:
    """Of all quantiles there are; the picture has what grows with the throughput beside them."""
    spread = {"c16.q1_ms": 1.0, "c16.q99.9_ms": 9.0, "c16.q50_ms": 2.0, "c16.rps": 7.0}
    found = {
        f"{target}.{key}": value for target in ("envoy", "h2corn") for key, value in spread.items()
    }
    assert quantiles(found, "h2corn.c16") == [(1, 1), (50, 2), (99.9, 9)]
    found |= {f"{target}.c16.{name}": 5 for target in ("envoy", "h2corn") for name in NAMES[1:3]}
    bench_plot(found, [Load("c16", 16)], ["h2corn"], path=tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 10_000


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_feature_names_a_listener_of_any_engine(feature: Feature) -> None:
    """No braces are left once the engine is known."""
    assert "{" not in feature.listener.format("h2corn")
