from __future__ import annotations

from fastapi import FastAPI

from tests.support.admin_api import API, pages_of, session_client


async def test_prices_are_set_by_administrators_and_shown_as_they_hold(app: FastAPI) -> None:
    """All of a request or none; amounts are exact texts."""
    admin, viewer = await session_client(app, "admin"), await session_client(app, "viewer")
    now = {"model": "gpt-*", "input": "2.5", "output": "10", "cached_input": "0.000125"}
    later = {"model": "gpt-*", "input": 3, "output": 12, "valid_from": "2090-01-01T00:00:00Z"}

    made = await admin.post(f"{API}/prices", json=[now, later])
    wrong = await admin.post(f"{API}/prices", json=[now | {"model": "x"}, now | {"input": "-1"}])
    twice = await admin.post(f"{API}/prices", json=[later | {"input": 9}, now, later])
    refused = await viewer.post(f"{API}/prices", json=[now])
    shown = (await viewer.get(f"{API}/prices")).json()
    every = (await viewer.get(f"{API}/prices", params={"all": True})).json()

    assert (made.status_code, refused.status_code) == (200, 403)
    assert (wrong.status_code, wrong.json()["errors"][0]["in"]) == (422, "body.1.input")
    assert (twice.status_code, "the same time" in twice.json()["detail"]) == (422, True)
    assert [(one["input"], one["cached_input"]) for one in shown] == [("2.500000", "0.000125")]
    assert [one["input"] for one in every] == ["3.000000", "2.500000"]


async def test_a_price_for_long_prompts_needs_their_length(app: FastAPI) -> None:
    """And is shown with it."""
    admin = await session_client(app, "admin")
    long = {"model": "m", "input": 3, "output": 15, "input_above": 6, "above_tokens": 200_000}
    alone = long | {"above_tokens": None}

    refused = await admin.post(f"{API}/prices", json=[alone])
    made = await admin.post(f"{API}/prices", json=[long])
    (shown,) = (await admin.get(f"{API}/prices")).json()

    assert (refused.status_code, refused.json()["errors"][0]["in"]) == (422, "body.0.above_tokens")
    assert made.status_code == 200
    assert (shown["above_tokens"], shown["input_above"]) == (200_000, "6.000000")
    assert shown["output_above"] is None


async def test_prices_come_page_by_page_if_a_caller_asks_for_pages(app: FastAPI) -> None:
    """Those that hold now, or all; a model's prices go over the end of a page."""
    admin = await session_client(app, "admin")
    row = {"input": 1, "output": 1}
    times = [{"valid_from": f"20{year}-01-01T00:00:00Z"} for year in (20, 21, 90)]
    prices = [{"model": model, **row, **time} for model in ("a b", "c/d") for time in times]
    await admin.post(f"{API}/prices", json=prices)

    now = await pages_of(admin, "/prices", limit=1)
    every = await pages_of(admin, "/prices", limit=2, all=True)
    wrong = await admin.get(f"{API}/prices", params={"after": "soon/a"})

    found = [[(one["model"], one["valid_from"][:4]) for one in page] for page in (*now, *every)]
    assert found == [
        [("a b", "2021")], [("c/d", "2021")],
        [("a b", "2090"), ("a b", "2021")], [("a b", "2020"), ("c/d", "2090")],
        [("c/d", "2021"), ("c/d", "2020")],
    ]  # fmt: skip
    assert wrong.status_code == 422
