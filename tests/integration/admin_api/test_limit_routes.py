from __future__ import annotations

from fastapi import FastAPI
from structlog.testing import capture_logs

from tests.support.admin_api import API, pages_of, session_client
from tests.support.postgres import Database

TEAM = f"{API}/organizations/acme/teams/search"


async def test_limits_are_replaced_as_a_whole_and_shown_with_their_state(app: FastAPI) -> None:
    """In the words of the command line; without Valkey the state says so."""
    operator = await session_client(app, "operator:acme")
    words = {"limits": [{"limit": "requests/minute=600"}, {"limit": "cost/month=250"}]}

    written = await operator.put(f"{TEAM}/limits", json=words)
    shown = await operator.get(f"{TEAM}/limits")
    state = (await operator.get(f"{API}/keys/AAAAAAAAAAA1/limits/state")).json()
    listed = (await operator.get(f"{API}/limits")).json()
    budgets = (await operator.get(f"{API}/budgets", params={"organization": "acme"})).json()
    stale = await operator.put(
        f"{TEAM}/limits", json={"limits": []}, headers={"if-match": '"other"'}
    )
    removed = await operator.put(
        f"{TEAM}/limits", json={"limits": []}, headers={"if-match": shown.headers["etag"]}
    )

    assert [one["limit"] for one in written.json()["limits"]] == [
        "requests/minute=600",
        "cost/month=250",
    ]
    assert shown.headers["etag"] == written.headers["etag"]
    assert {one["owner"] for one in state["limits"]} == {"acme/search"}
    assert "EGRET_VALKEY__URL" in state["away"]
    assert [one["measure"] for one in listed] == ["requests", "cost"]
    assert [(one["amount_usd"], one["spent_usd"]) for one in budgets] == [
        ("250.000000", "0.000000")
    ]
    assert (stale.status_code, removed.json()) == (412, {"limits": []})


async def test_an_organization_cannot_raise_its_own_budget(app: FastAPI) -> None:
    """Neither may a team lead raise that of a key."""
    words = {"limits": [{"limit": "cost/month=9999"}]}
    admin, lead = [
        await session_client(app, grant) for grant in ("admin:acme", "team_lead:acme/search")
    ]

    answers = [
        await admin.put(f"{API}/organizations/acme/limits", json=words),
        await lead.put(f"{API}/keys/AAAAAAAAAAA1/limits", json=words),
        await lead.put(f"{TEAM}/limits", json=words),
    ]

    assert [one.status_code for one in answers] == [403] * 3


async def test_limits_that_cannot_be_read_leave_their_owner_alone_out_of_lists(
    app: FastAPI, database: Database
) -> None:
    """On pages too, of which they may be the last or all there is; who asks for them is told."""
    admin = await session_client(app, "admin")
    words = {"limits": [{"limit": "cost/day=1"}]}
    places = (f"{API}/organizations/acme", TEAM, f"{API}/keys/AAAAAAAAAAA1")
    for place in (*places, f"{API}/keys/AAAAAAAAAAA2"):
        assert (await admin.put(f"{place}/limits", json=words)).status_code == 200
    readable = [one["owner"] for one in (await admin.get(f"{API}/limits")).json()]
    await database.execute(
        "UPDATE teams SET limits = replace(limits::text, '\"day\"', '\"eon\"')::jsonb"
    )
    readable.remove("acme/search")

    for path in ("/limits", "/budgets"):
        for size in (1, 2, 3, 4):
            pages = await pages_of(admin, path, limit=size)
            assert [one["owner"] for page in pages for one in page] == readable
        page = (await admin.get(f"{API}{path}", params={"limit": 9})).json()
        assert [(one["level"], one["owner"]) for one in page["unreadable"]] == [
            ("team", "acme/search")
        ]
        with capture_logs() as logged:
            listed = (await admin.get(f"{API}{path}")).json()
        assert [one["owner"] for one in listed] == readable
        assert [line["event"] for line in logged] == ["admin.limits_unreadable"]
        assert "team" in logged[0]["reason"]
    refused = [
        await admin.get(f"{TEAM}/limits"),
        await admin.get(f"{API}/budgets", params={"team": "acme/search"}),
    ]
    assert [one.status_code for one in refused] == [409, 409]


async def test_limits_of_others_are_not_even_read(app: FastAPI, database: Database) -> None:
    """Such as this version cannot read are not named in the log for everybody's lists."""
    await database.execute("""
            UPDATE organizations SET limits = '[{"measure": "cost", "window": "day", "amount": 1}]'
            WHERE id = 'org_1';
            UPDATE teams SET limits = '[{"measure": "cost", "window": "eon", "amount": 1}]'
            WHERE id = 'team_2';
        """)
    viewer, lead, admin = [
        await session_client(app, role)
        for role in ("viewer:acme", "team_lead:acme/search", "admin")
    ]

    for path in (f"{API}/limits", f"{API}/budgets"):
        assert [one["owner"] for one in (await viewer.get(path)).json()] == ["acme"]
        assert (await lead.get(path)).json() == []
        with capture_logs() as of_viewer:
            await viewer.get(path)
        with capture_logs() as of_admin:
            await admin.get(path)
        assert of_viewer == []
        assert ["globex/search" in line["reason"] for line in of_admin] == [True]


async def test_words_that_are_no_limit_are_faults_of_the_request(app: FastAPI) -> None:
    """With the part that is wrong."""
    operator = await session_client(app, "operator")

    answers = [
        await operator.put(f"{TEAM}/limits", json={"limits": [{"limit": words, **more}]})
        for words, more in (
            ("requests", {}),
            ("dances/minute=1", {}),
            ("requests/month=1", {}),
            ("requests/minute=-1", {}),
            ("requests/minute=1e99999999", {}),
            ("requests/day=1", {"time_zone": "../../etc"}),
            ("requests/day=1", {"operations": ["chatt"]}),
            ("requests/day=1", {"models": ["gpt\t4"]}),
        )
    ]

    assert {one.status_code for one in answers} == {422}
    assert "dances" in answers[1].json()["detail"]
    assert "limits: there is no operation 'chatt'; there are chat," in answers[6].json()["detail"]
    assert "limits: 'gpt\\t4' is no model" in answers[7].json()["detail"]


async def test_limits_and_budgets_come_by_whole_owners_on_pages(app: FastAPI) -> None:
    """An owner with more of them than a page has them on one page all the same."""
    admin = await session_client(app, "admin")
    words = [{"limit": one} for one in ("cost/day=1", "cost/week=1", "requests/day=1")]
    acme = f"{API}/organizations/acme"
    for place, count in ((acme, 1), (f"{API}/keys/AAAAAAAAAAA2", 3), (TEAM, 1)):
        await admin.put(f"{place}/limits", json={"limits": words[:count]})

    limits = await pages_of(admin, "/limits", limit=2)
    budgets = await pages_of(admin, "/budgets", limit=1)
    wrong = await admin.get(f"{API}/limits", params={"after": "acme"})

    search, laptop = "acme/search", "globex/search/laptop"
    assert [[one["owner"] for one in page] for page in limits] == [["acme", search], [laptop] * 3]
    owners = [[one["owner"] for one in page] for page in budgets]
    assert owners == [["acme"], [search], [laptop] * 2]
    assert wrong.status_code == 422
