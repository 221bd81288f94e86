from __future__ import annotations

from loadtest.bench_full import VARIANTS, Variant, full_grid, memory_grid


def test_variants_differ_from_the_base_in_one_thing() -> None:
    """Else nobody could say what a difference is due to."""
    base = VARIANTS[0]
    fields = [name for name in Variant.__dataclass_fields__ if name != "name"]
    for variant in VARIANTS[1:]:
        assert sum(getattr(variant, name) != getattr(base, name) for name in fields) == 1
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


def test_each_variant_has_a_line_for_each_target() -> None:
    """Envoy alone first: what is compared was measured beside it."""
    names = ("rps", "p50_ms", "p99_ms", "worker_cpu_us", "envoy_cpu_us")
    figures = {
        f"{target}.{variant.name}.{name}": 1234.5
        for target in ("envoy", "grpcio", "h2corn")
        for variant in VARIANTS
        for name in names
    }
    rows = full_grid(figures).rows
    assert [row[1] for row in rows] == ["Envoy alone", "grpcio", "h2corn"] * len(VARIANTS)
    assert rows[0][2:] == ["1,234", "1,234.50", "1,234.50", "1,234", "1,234"]


def test_a_worker_with_a_full_cache_has_a_line_by_engine() -> None:
    """What it takes, and its part of what it shares."""
    figures = {
        f"{engine}.full_cache.{name}": value
        for engine in ("grpcio", "h2corn")
        for name, value in (("rss_mb", 131.6), ("pss_mb", 98.2))
    }
    assert memory_grid(figures).rows == [["grpcio", "132", "98"], ["h2corn", "132", "98"]]
