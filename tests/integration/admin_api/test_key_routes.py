from __future__ import annotations

from collections.abc import Awaitable

import pytest
from fastapi import FastAPI
from httpx import AsyncClient, Response

from sidecar.keys.credentials import parse
from tests.support.admin_api import API, session_client

KEYS = f"{API}/organizations/acme/teams/search/keys"


async def test_a_key_lives_by_the_api(app: FastAPI) -> None:
    """Create with bounds, change them, rotate with a grace, revoke; the secret is shown once."""
    lead = await session_client(app, "team_lead:acme/search")
    bounds = {
        "allowed_sources": ["192.0.2.0/24", "2001:db8::/32"],
        "allowed_operations": ["chat"],
        "tags": ["env=prod"],
        "expires_at": "2100-01-01T00:00:00Z",
    }
    created = (await lead.post(KEYS, json={"name": "ci", **bounds})).json()
    key_id = created["details"]["key_id"]

    changed = (
        await lead.patch(f"{API}/keys/{key_id}", json={"tags": [], "allowed_sources": None})
    ).json()
    rotated = (await lead.post(f"{API}/keys/{key_id}/rotate", json={"grace_seconds": 60})).json()
    revoked = (await lead.post(f"{API}/keys/{key_id}/revoke")).json()
    again = (await lead.post(f"{API}/keys/{key_id}/revoke")).json()
    shown = await lead.get(f"{API}/keys/{key_id}")

    parsed = parse(created["key"])
    assert parsed is not None
    assert parsed.key_id == key_id
    assert created["details"]["allowed_sources"] == bounds["allowed_sources"]
    assert (changed["tags"], changed["allowed_sources"]) == ([], None)
    assert changed["expires_at"] == bounds["expires_at"]
    assert rotated["details"]["expires_at"] == bounds["expires_at"]
    assert rotated["replaces"]["replaced_by"] == rotated["details"]["key_id"]
    assert revoked["state"] == "revoked"
    assert again["revoked_at"] == revoked["revoked_at"]
    assert created["key"] not in shown.text
    assert parsed.secret not in shown.text


async def test_keys_are_listed_page_by_page_and_only_those_of_the_caller(app: FastAPI) -> None:
    """A filter for another's team answers like one for a team that is not there."""
    admin, lead = await session_client(app, "admin"), await session_client(app, "viewer:acme/ads")

    first = (await admin.get(f"{API}/keys", params={"limit": 2})).json()
    rest = (await admin.get(f"{API}/keys", params={"limit": 2, "after": first["next"]})).json()
    own = (await lead.get(f"{API}/keys")).json()
    others = [
        await lead.get(f"{API}/keys", params=params)
        for params in (
            {"team": "globex/search"},
            {"team": "globex/none"},
            {"organization": "globex"},
            {"organization": "none"},
        )
    ]

    assert len(first["items"]) + len(rest["items"]) == 3
    assert rest["next"] is None
    assert [one["key_id"] for one in own["items"]] == ["AAAAAAAAAAA3"]
    assert [one.status_code for one in others] == [404] * 4
    assert len({one.text for one in others}) == 1


async def test_pages_go_on_after_a_key_that_was_deleted_meanwhile(app: FastAPI) -> None:
    """From its place; for those that might list it, and not after a key that never was."""
    callers = [
        await session_client(app, grant, person=grant)
        for grant in ("admin", "viewer:acme", "viewer:acme/search", "viewer:globex")
    ]
    before = [one["key_id"] for one in (await callers[0].get(f"{API}/keys")).json()["items"]]
    async with app.state.pool.acquire() as connection:
        await connection.execute("DELETE FROM api_keys WHERE public_id = 'AAAAAAAAAAA1'")

    after = {"after": "AAAAAAAAAAA1"}
    pages = [await one.get(f"{API}/keys", params=after) for one in callers]
    never = await callers[0].get(f"{API}/keys", params={"after": "AAAAAAAAAAAA"})

    assert [one.status_code for one in (*pages, never)] == [200, 200, 200, 422, 422]
    assert before == ["AAAAAAAAAAA1", "AAAAAAAAAAA2", "AAAAAAAAAAA3"]
    listed = [[key["key_id"] for key in one.json()["items"]] for one in pages[:3]]
    assert listed == [["AAAAAAAAAAA2", "AAAAAAAAAAA3"], ["AAAAAAAAAAA3"], []]


async def test_a_team_lead_binds_no_policy(app: FastAPI) -> None:
    """A weaker policy would pass its guardrails by."""
    lead = await session_client(app, "team_lead:acme/search")

    made = await lead.post(KEYS, json={"name": "ci", "policy": "weak"})
    bound = await lead.patch(f"{API}/keys/AAAAAAAAAAA1", json={"policy": None})

    assert (made.status_code, bound.status_code) == (403, 403)


async def test_models_of_a_key_stay_within_those_of_its_team_and_organization(
    app: FastAPI,
) -> None:
    """For a caller who may not change the list above; a list of before may stay."""
    path = f"{API}/keys/AAAAAAAAAAA1"
    lead, operator, admin = [
        await session_client(app, role)
        for role in ("team_lead:acme/search", "operator:acme", "admin")
    ]
    for owner, globs in (("acme", ["gpt-*"]), ("acme/teams/search", ["gpt-5*"])):
        owned = f"{API}/organizations/{owner}"
        assert (await admin.patch(owned, json={"allowed_models": globs})).status_code == 200

    def change(client: AsyncClient, *globs: str) -> Awaitable[Response]:
        return client.patch(path, json={"allowed_models": globs})

    made = await lead.post(KEYS, json={"name": "ci", "allowed_models": ["*"]})
    by_lead = [await change(lead, *globs) for globs in (["gpt-5-mini"], ["gpt-5", "gpt-4"])]
    by_operator = [await change(operator, one) for one in ("gpt-4*", "gpt*", "claude-5")]
    of_team = await operator.patch(
        f"{API}/organizations/acme/teams/search", json={"allowed_models": ["claude-5"]}
    )
    by_admin = await change(admin, "claude-5")
    kept = await change(lead, "claude-5", "gpt-5")

    assert (made.status_code, of_team.status_code) == (403, 403)
    assert "* is not within the models of the team, organization or policy" in made.text
    assert [one.status_code for one in by_lead] == [200, 403]
    assert [one.status_code for one in by_operator] == [200, 403, 403]
    assert (by_admin.status_code, kept.status_code) == (200, 200)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        *(("keys/AAAAAAAAAAA1", field) for field in ("enabled", "tags", "priority")),
        *(("organizations/acme", field) for field in ("enabled", "name")),
        ("organizations/acme/teams/search", "enabled"),
    ],
)
async def test_a_field_that_cannot_be_empty_is_not_set_to_null(
    app: FastAPI, path: str, field: str
) -> None:
    """It would change nothing in silence."""
    admin = await session_client(app, "admin")

    answer = await admin.patch(f"{API}/{path}", json={field: None})

    assert answer.status_code == 422
    assert "must not be null" in answer.text


async def test_models_of_a_key_stay_within_those_of_its_policy(app: FastAPI) -> None:
    """They would take the place of the policy's list; a caller who binds policies chooses it."""
    path, change = f"{API}/keys/AAAAAAAAAAA1", {"allowed_models": ["gpt-5"]}
    lead, admin = [
        await session_client(app, role) for role in ("team_lead:acme/search", "admin:acme")
    ]
    assert (await lead.patch(path, json=change)).status_code == 200
    async with app.state.pool.acquire() as connection, connection.transaction():
        for name, models in (("default", "claude-*"), ("own", "o3")):
            document = f"name: {name}\nallowed_models: ['{models}']\nguardrails: []\n"
            await connection.execute("INSERT INTO policies (name, version) VALUES ($1, 1)", name)
            await connection.execute(
                "INSERT INTO policy_versions (policy_name, version, document) VALUES ($1, 1, $2)",
                name,
                document,
            )

    def to(client: AsyncClient, model: str) -> Awaitable[Response]:
        return client.patch(path, json={"allowed_models": [model]})

    found = [await to(lead, model) for model in ("gpt-4", "gpt-5", "claude-5")]
    await admin.patch(path, json={"policy": "own"})
    found += [await to(client, "claude-6") for client in (lead, admin)]

    assert [one.status_code for one in found] == [403, 200, 200, 403, 200]


async def test_a_team_lead_sets_no_priority(app: FastAPI) -> None:
    """At a limit that teams share, a higher one takes from the others."""
    path, change = f"{API}/keys/AAAAAAAAAAA1", {"priority": "interactive"}
    lead, operator = [
        await session_client(app, role) for role in ("team_lead:acme/search", "operator:acme")
    ]

    refused, changed = await lead.patch(path, json=change), await operator.patch(path, json=change)

    assert (refused.status_code, changed.json()["priority"]) == (403, "interactive")
    assert "manage_limits" in refused.text


async def test_a_key_that_would_never_be_good_is_not_made(app: FastAPI) -> None:
    lead = await session_client(app, "team_lead:acme/search")
    past, begins, ends = "2020-01-01T00:00:00Z", "2100-01-02T00:00:00Z", "2100-01-01T00:00:00Z"

    answers = [
        await lead.post(KEYS, json={"name": "ci", "expires_at": past}),
        await lead.post(KEYS, json={"name": "ci", "expires_at": ends, "not_before": begins}),
        await lead.patch(
            f"{API}/keys/AAAAAAAAAAA1", json={"expires_at": ends, "not_before": begins}
        ),
        await lead.post(f"{API}/keys/AAAAAAAAAAA1/rotate", json={"expires_at": past}),
    ]
    shown = (await lead.get(f"{API}/keys/AAAAAAAAAAA1")).json()

    assert [one.status_code for one in answers] == [422] * 4
    assert all("would never be good" in one.json()["detail"] for one in answers)
    assert (shown["expires_at"], shown["not_before"], shown["replaced_by"]) == (None, None, None)


async def test_a_key_does_not_expire_before_it_begins_to_be_good(app: FastAPI) -> None:
    """Both may move in one change; a past expiry ends the key at once."""
    lead, key = await session_client(app, "team_lead:acme/search"), f"{API}/keys/AAAAAAAAAAA1"
    begins, ends, past = [f"{year}-01-01T00:00:00Z" for year in (2101, 2100, 2020)]
    await lead.patch(key, json={"not_before": begins})

    refused = await lead.patch(key, json={"expires_at": ends})
    shown = await lead.get(key)
    earlier = await lead.patch(
        key, json={"expires_at": ends, "not_before": "2099-01-01T00:00:00Z"}
    )
    ended = await lead.patch(key, json={"expires_at": past})

    assert refused.status_code == 422
    assert "would never be good: it begins at 2101" in refused.json()["detail"]
    assert shown.json()["expires_at"] is None
    assert (earlier.status_code, earlier.json()["expires_at"]) == (200, ends)
    assert (ended.status_code, ended.json()["state"]) == (200, "expired")


async def test_values_out_of_range_are_faults_of_the_request(app: FastAPI) -> None:
    """Never of the server."""
    lead = await session_client(app, "team_lead:acme/search")

    faulty: list[dict[str, object]] = [
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "99999-01-01T00:00:00Z"},
        {"allowed_sources": ["192.0.2.1/24"]},
        {"allowed_operations": ["dance"]},
        {"tags": ["Not A Tag"]},
        {"allowed_models": []},
        {"tags": [f"t{number}" for number in range(21)]},
    ]
    answers = [await lead.post(KEYS, json={"name": "ci", **fields}) for fields in faulty]
    rotated = await lead.post(f"{API}/keys/AAAAAAAAAAA1/rotate", json={"grace_seconds": -1})

    assert [one.status_code for one in [*answers, rotated]] == [422] * 8


async def test_networks_of_a_key_are_text_as_in_files_and_commands(app: FastAPI) -> None:
    """A number is no network: JSON's 16909060 would allow 1.2.3.4."""
    lead = await session_client(app, "team_lead:acme/search")
    faulty: list[object] = [16909060, None, "192.0.2.1/24", "fe80::1%eth0", "10.0.0.0/99"]

    answers = [
        await lead.post(KEYS, json={"name": "ci", "allowed_sources": ["192.0.2.0/24", network]})
        for network in faulty
    ]

    fault = "is no network, write for example 192.0.2.0/24 or 2001:db8::/32"
    expected = [{"in": "body.allowed_sources.1", "fault": fault}]
    assert [one.json().get("errors") for one in answers] == [expected] * 5


async def test_json_that_is_not_declared_as_such_is_refused_with_the_header(app: FastAPI) -> None:
    """As `curl -d` sends it, and a client that names another type."""
    lead = await session_client(app, "team_lead:acme/search")
    types = ("application/x-www-form-urlencoded", "text/plain")

    answers = [
        await lead.post(KEYS, content='{"name": "ci"}', headers={"content-type": one})
        for one in types
    ]
    other = await lead.post(KEYS, json=["ci"])

    assert [one.status_code for one in (*answers, other)] == [422] * 3
    assert {one.json()["hint"] for one in answers} == {
        "send JSON with the header `content-type: application/json`"
    }
    assert "hint" not in other.json()


async def test_a_time_that_no_file_may_have_is_refused(app: FastAPI) -> None:
    """One key of one team with such a time would stop `egret apply` for everyone."""
    lead = await session_client(app, "team_lead:acme/search")
    url = f"{API}/keys/AAAAAAAAAAA1"

    refused = [
        await lead.request(method, path, json=body | {field: at})
        for at in ("1969-12-31T23:59:59Z", "9999-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00")
        for method, path, body, field in (
            ("POST", KEYS, {"name": "ci"}, "not_before"),
            ("PATCH", url, {}, "expires_at"),
            ("PATCH", url, {}, "not_before"),
            ("POST", f"{url}/rotate", {}, "expires_at"),
        )
    ]

    assert [one.status_code for one in refused] == [422] * 12
    assert "not between 1970 and 9998" in refused[0].text
    exported = await (await session_client(app, "admin")).get(f"{API}/installation")
    assert exported.status_code == 200


async def test_a_key_that_was_changed_meanwhile_is_neither_rotated_nor_revoked(
    app: FastAPI,
) -> None:
    """If the caller asks for that by `If-Match`; the tag of its state now is taken."""
    lead = await session_client(app, "team_lead:acme/search")
    url = f"{API}/keys/AAAAAAAAAAA1"
    before = (await lead.get(url)).headers["etag"]
    now = (await lead.patch(url, json={"tags": ["env=prod"]})).headers["etag"]

    late = [
        await lead.post(f"{url}/rotate", json={}, headers={"if-match": before}),
        await lead.post(f"{url}/revoke", headers={"if-match": before}),
    ]
    done = await lead.post(f"{url}/revoke", headers={"if-match": now})

    assert [one.status_code for one in late] == [412, 412]
    assert (done.status_code, done.json()["state"]) == (200, "revoked")
