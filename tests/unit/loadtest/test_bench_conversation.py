from __future__ import annotations

import asyncio
from functools import partial

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from egret_tools.conversations import Shape
from pydantic import SecretStr

from loadtest.conversations.clients import Contestant, Cost, TableCounts, costs
from loadtest.conversations.figures import (
    Series,
    cases_grid,
    conversation_figures,
    growth_grid,
    peers_grid,
    ratios_grid,
    turn_key,
    turns_grid,
)


@pytest.fixture
def series() -> Series:
    """Three rounds of one size; the machine is slower by half in the second."""
    series = Series()
    for first, then, cold in ((1000, 100, 1000), (1500, 150, 1500), (1030, 206, 1000)):
        series.add_costs(
            "64k.first_turn", {"egret": Cost(first, 50, 0), "without": Cost(cold, 50, 0)}
        )
        series.add_costs(
            "64k.next_turn", {"egret": Cost(then, 60, 1), "rev": Cost(2 * cold, 60, 0)}
        )
    return series


def test_ratios_are_taken_within_a_round(series: Series) -> None:
    """The speed of the machine drifts for both alike."""
    figures = conversation_figures(series)
    assert figures["egret.64k.first_turn_cpu_us"] == 1030
    assert figures["egret.64k.next_turn_cpu_us"] == 150
    assert figures["egret.64k.cold_cpu_us"] == 1000
    assert figures["egret.64k.ratio"] == pytest.approx(0.1)
    assert figures["egret.64k.ratio_max"] == pytest.approx(0.2)
    assert figures["egret.64k.first_of_cold_max"] == pytest.approx(1.03)
    assert figures["egret.64k.next_of_rev_min"] == pytest.approx(0.05)
    assert figures["errors"] == 3
    assert series.failed == {"egret": 3}


def test_the_table_of_turns_has_a_line_for_each_size(series: Series) -> None:
    """A worker without the metrics of a table of known messages leaves two columns empty."""
    (row,) = turns_grid(conversation_figures(series), ["64k"]).rows
    assert row == ["64k", "1,000", "1,030", "150", "-", "2,000", "-", "-"]


def test_ratios_have_ranges_and_targets(series: Series) -> None:
    """That of a next turn holds beside the former price of the same turn as well."""
    rows = ratios_grid(conversation_figures(series), ["64k"]).rows
    assert [row[2:] for row in rows] == [
        ["0.100", "0.100-0.200", "≤ 0.20"],
        ["1.000", "1.000-1.030", "≤ 1.05"],
        ["0.050", "0.050-0.103", "≤ 0.20"],
    ]


def test_every_guardrail_has_lines_of_its_own() -> None:
    """Beside those of the built-in policy, with the same targets."""
    series = Series()
    for first, then, cold in ((4000, 400, 4000), (5000, 600, 4000)):
        series.add_costs(
            "64k.first_turn", {"every": Cost(first, 50, 0), "every-without": Cost(cold, 50, 0)}
        )
        series.add_costs("64k.next_turn", {"every": Cost(then, 60, 0)})
    for turn, cost in (("first", 4000), ("next", 300)):
        series.add_costs(f"64k.{turn}_turn", {"every-kept": Cost(cost, 50, 0)})
    figures = conversation_figures(series)
    assert turns_grid(figures, ["64k"]).rows[1][:5] == [
        "64k, every guardrail", "4,000", "4,500", "500", "300"
    ]  # fmt: skip
    assert [row[1:] for row in ratios_grid(figures, ["64k"]).rows] == [
        ["the same, with every guardrail", "0.110", "0.100-0.120", "≤ 0.20"],
        ["the same, every guardrail and kept", "0.075", "0.075-0.075", "≤ 0.20"],
        ["the same, with every guardrail", "1.125", "1.000-1.250", "≤ 1.05, missed"],
    ]


def test_a_missed_target_says_so(series: Series) -> None:
    """The same figures at a size with a stricter one."""
    strict = Series({key.replace("64k", "1m"): one for key, one in series.values.items()})
    row, *_ = ratios_grid(conversation_figures(strict), ["1m"]).rows
    assert row[2:] == ["0.100", "0.100-0.200", "≤ 0.08, missed"]


def test_hit_rate_and_size_of_the_table_are_the_worst_of_all_sizes() -> None:
    """The figures of a run as a whole."""
    series = Series()
    for size, rate, megabytes in (("64k", 0.95, 3), ("1m", 0.90, 2)):
        series.add(f"egret.{size}.hit_rate", rate)
        series.add(f"egret.{size}.table_mb", megabytes)
    figures = conversation_figures(series)
    assert (figures["hit_rate"], figures["table_mb"]) == (0.90, 3)


def test_a_growing_conversation_has_a_line_for_each_side_that_ran() -> None:
    """With the cost of its first, middle and last turn."""
    series = Series()
    for turn in range(1, 5):
        cost = Cost(100.0 * turn, 0, 0)
        series.add_costs(turn_key(Shape.AGENT, turn), {"egret": cost, "two": cost})
    series.add("coding_agent.last_turn_kib", 90)
    series.add("two.coding_agent.known_share", 0.8)
    figures = conversation_figures(series)
    assert growth_grid(figures, [Shape.AGENT]).rows == [
        ["coding agent", "this checkout", "4", "90", "100", "200", "400", "-"],
        ["coding agent", "this checkout, two workers", "4", "90", "100", "200", "400", "0.800"],
    ]


def test_a_request_that_the_table_can_hardly_help_is_compared_with_none() -> None:
    """That of a thrashed table with the smallest one."""
    series = Series()
    costs = {"egret": Cost(105, 0, 0), "small": Cost(104, 0, 0), "without": Cost(100, 0, 0)}
    for case in ("edited", "thrashed"):
        series.add_costs(case, costs)
    edited, thrashed = cases_grid(conversation_figures(series)).rows
    assert edited[1:] == ["100", "105", "1.050", "1.050-1.050", "≤ 1.05", "-"]
    assert thrashed[1:] == ["100", "104", "1.040", "1.040-1.040", "≤ 1.05", "-"]


def test_egrets_cpu_includes_envoys_beside_other_gateways(series: Series) -> None:
    """Others have no Envoy."""
    for turn in ("first_turn", "next_turn"):
        series.add_costs(f"64k.{turn}", {"LiteLLM guarded": Cost(9000, 0, 0)})
    figures = conversation_figures(series)
    egret, lite = peers_grid(figures, {"LiteLLM guarded": "key"}, ["64k"]).rows
    assert egret == ["64k", "Egret", "key, default policy", "1,080", "210", "0.19"]
    assert lite == ["64k", "LiteLLM guarded", "key", "9,000", "9,000", "1.00"]


def test_a_hit_rate_is_that_of_a_span() -> None:
    """Zero where no message was looked up."""
    before = TableCounts(hits=10, misses=10, known_bytes=0, evictions=0, size_bytes=1)
    after = TableCounts(hits=105, misses=15, known_bytes=7, evictions=2, size_bytes=3)
    assert (after - before).hit_rate == 0.95
    assert (after - before).size_bytes == 3
    assert (after - after).hit_rate == 0.0


async def test_sides_take_turns_after_each_slice_every_second_time_backwards() -> None:
    """A machine that is slow for a while is slow for both; what each was sent is its own cost."""
    asked: list[tuple[str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, await request.read()))
        return web.Response(status=500 if await request.read() == b"3" else 200)

    application = web.Application()
    application.router.add_post("/{side}", answer)
    async with TestServer(application) as server:
        sides = [
            Contestant(
                name,
                str(server.make_url(f"/{name}")),
                SecretStr("a-key"),
                cpu=partial(cpu_of, name, asked),
            )
            for name in ("one", "two")
        ]
        found = await costs(sides, [b"0", b"1", b"2", b"3"], slices=2)

    order = [path for path, _ in asked]
    assert order == ["/one"] * 2 + ["/two"] * 4 + ["/one"] * 2
    assert {body for _, body in asked[:4]} == {b"0", b"2"}
    assert found == {"one": Cost(2_000, 0, 1), "two": Cost(2_000, 0, 1)}


def cpu_of(name: str, asked: list[tuple[str, bytes]]) -> tuple[float, float]:
    return 0.002 * sum(path == f"/{name}" for path, _ in asked), 0.0


@pytest.mark.parametrize(("size", "at_once"), [(600 * 1024, 4), (4_096, 16)])
async def test_few_long_bodies_are_sent_at_once(size: int, at_once: int) -> None:
    """More of them would wait for each other up to the time limit of the guardrails."""
    waiting = most = 0
    all_wait = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal waiting, most
        await request.read()
        waiting += 1
        most = max(most, waiting)
        if waiting == at_once:
            all_wait.set()
        await all_wait.wait()
        await asyncio.sleep(0.05)
        waiting -= 1
        return web.Response()

    application = web.Application()
    application.router.add_post("/", answer)
    async with TestServer(application) as server:
        one = Contestant(
            "one", str(server.make_url("/")), SecretStr("key"), cpu=lambda: (0.0, 0.0)
        )
        assert await one.send([bytes(size)] * 32) == 0
    assert most == at_once
