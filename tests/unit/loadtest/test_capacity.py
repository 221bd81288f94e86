from __future__ import annotations

import pytest

from loadtest.capacities.model import Measured, Scale, need, saturation, shared_misses
from loadtest.capacities.servers import ServerCosts
from loadtest.capacities.traffic import (
    KeyTraffic,
    LimitTraffic,
    estimated_loads,
    key_traffic,
    limit_traffic,
    rates,
)

MEASURED = Measured("h2corn", worker_us=250, envoy_us=125, worker_mb=128)
COSTS = ServerCosts(usage_row=20, key_load=100, shared_key=10, limit_call=25)
KEYS = KeyTraffic(hit_share=0.75, loads_a_second=500)
LIMITS = LimitTraffic(waiting=100, ahead=200, corrections=100)
SCALE = Scale(100_000, keys=1_000_000, teams=10_000)


async def test_the_cache_loads_as_often_as_arithmetic_says() -> None:
    """Keys that fit and keys that do not: the two ways to reckon agree within a twentieth."""
    fits = await key_traffic(rate=500, keys=5_000)
    expected = estimated_loads(rate=500, keys=5_000, capacity=10_000)
    assert fits.loads_a_second == pytest.approx(expected, rel=0.05)
    assert 0.5 < fits.hit_share < 1


def test_keys_that_are_evicted_before_they_age_are_loaded_more_often() -> None:
    """A cache with room for fewer keys loads more; with room for all, as few as they age."""
    loads = [
        estimated_loads(rate=2_000, keys=100_000, capacity=capacity)
        for capacity in (100, 1_000, 10_000, 100_000, 1_000_000)
    ]
    assert loads == sorted(loads, reverse=True)
    assert loads[0] > 1.5 * loads[2]
    assert loads[3] == loads[4]


def test_classes_of_keys_have_all_keys_and_all_requests() -> None:
    """Grouping the rare ones loses none of either."""
    classes = list(rates(rate=1_000, keys=50_000))
    assert sum(many for _, many in classes) == 50_000
    assert sum(one * many for one, many in classes) == pytest.approx(1_000, rel=1e-3)
    assert len(classes) < 2_000


def test_leases_answer_for_teams_that_ask_often() -> None:
    """One team alone waits hardly ever; many that ask seldom wait mostly."""
    alone = limit_traffic(rate=200, teams=1, teams_an_organization=1)
    many = limit_traffic(rate=200, teams=5_000, teams_an_organization=10)
    assert alone.waiting < 0.01 * 200
    assert alone.ahead < 20
    assert alone.corrections == pytest.approx(4, rel=0.1)  # four times a second
    assert many.waiting > 0.4 * 200
    assert many.calls == many.waiting + many.ahead + many.corrections


def test_a_scale_needs_what_its_requests_cost_at_half_load() -> None:
    """Fifty workers of 2000 a second each, and what each of them was seen to ask, times fifty."""
    found = need(SCALE, MEASURED, COSTS, keys=KEYS, limits=LIMITS)
    assert (found.workers, found.envoy_cores, found.pods) == (50, 25.0, 10)
    assert (found.valkey_keys, found.valkey_limits) == (25_000, 20_000)
    assert found.valkey_cores == pytest.approx((25_000 * 10 + 20_000 * 25) / 1e6 * 2)
    assert found.postgres_connections == 50 * 5
    assert found.postgres_rows == 100_000
    assert 0 < found.postgres_loads < found.valkey_keys / 5
    assert found.postgres_cores == pytest.approx(
        (found.postgres_loads * 100 + 100_000 * 20) / 1e6 * 2
    )
    assert (found.clients, found.clients_a_pod) == (200_000, 20_000)


def test_keys_that_lie_in_valkey_are_read_from_postgresql_once_in_their_time() -> None:
    """However often workers load a key, PostgreSQL is asked for it every five minutes at most."""
    few = Scale(100_000, keys=300, teams=10)
    assert shared_misses(few, rate=2_000, loads=1e9) == pytest.approx(1, rel=0.01)
    assert shared_misses(few, rate=2_000, loads=0.1) == pytest.approx(0.1, rel=0.25)


def test_what_saturates_is_named_in_the_order_it_does() -> None:
    """The smallest number of requests first."""
    found = need(SCALE, MEASURED, COSTS, keys=KEYS, limits=LIMITS)
    limits = saturation(MEASURED, COSTS, found=found, scale=SCALE)
    assert list(limits.values()) == sorted(limits.values())
    assert limits["one worker"] == pytest.approx(2_000)
    assert limits["one thread of Envoy"] == pytest.approx(4_000)
    assert limits["500 connections of PostgreSQL"] == pytest.approx(200_000)
    assert limits["one PostgreSQL of 16 cores, usage records"] == pytest.approx(400_000)
    assert next(iter(limits)) == "one worker"
