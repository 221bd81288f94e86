from __future__ import annotations

import re

from fastapi import FastAPI

from tests.support.console import Visitor, World

NEW = "/organizations/acme/teams/search/keys/new"
SECRET = re.compile(r'<code id="secret">(egk_[^<]+)</code>')


async def test_a_new_key_is_shown_once_and_never_again(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get(NEW)

    created = await visitor.send(NEW, {"name": "ci", "expires": "30 days", "tags": "env=test"})

    found = SECRET.search(created)
    assert found is not None
    secret = found[1]
    key_id = secret.removeprefix("egk_")[:12]
    for path in (f"/keys/{key_id}", "/keys", "/audit"):
        page = await visitor.get(path)
        assert key_id in page
        assert secret not in page


async def test_the_answer_with_a_secret_is_not_kept_by_a_browser(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get(NEW)
    token = re.search(r'name="csrf_token" value="(\w+)"', visitor.page)
    assert token is not None

    answer = await visitor.client.post(NEW, data={"name": "ci", "csrf_token": token[1]})

    assert SECRET.search(answer.text)
    assert answer.headers["cache-control"] == "no-store"


async def test_a_refused_key_gives_the_form_back_as_it_was_filled(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get(NEW)
    fields = {"name": "<b>Not a name</b>", "models": "gpt-4o o3", "sources": "10.0.0.0/8"}

    page = await visitor.send(NEW, fields, status=409)

    assert "is not an accepted name" in visitor.text
    assert 'value="&lt;b&gt;Not a name&lt;/b&gt;"' in page
    assert 'value="gpt-4o o3"' in page


async def test_a_revoked_key_stays_visible_as_revoked_and_its_change_is_watched(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")
    path = f"/keys/{world.keys[0]}"
    await visitor.get(path)

    page = await visitor.send(f"{path}/revoke", {})

    assert "revoked" in page
    assert 'hx-get="/in-force?watch=' in page
    assert "alice@example.com" in page


async def test_a_rotation_shows_the_new_key_and_keeps_the_old_for_the_grace(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")
    path = f"/keys/{world.keys[0]}"
    await visitor.get(path)

    page = await visitor.send(f"{path}/rotate", {"grace": "1 hour", "expires": "90 days"})
    await visitor.get(path)

    assert SECRET.search(page)
    assert "Replaced by" in visitor.text
    again = await visitor.send(f"{path}/rotate", {"grace": "1 hour"}, status=409)
    assert "was rotated before" in again


async def test_scopes_state_expiry_and_policy_of_a_key_change_by_its_forms(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")
    path = f"/keys/{world.keys[0]}"
    await visitor.get(path)

    scopes = {"models": "gpt-4*", "operations": "chat", "sources": "10.0.0.0/8", "tags": "a b"}
    await visitor.send(f"{path}/change", {**scopes, "priority": "batch"})
    await visitor.send(f"{path}/policy", {"policy": "strict"})
    await visitor.send(f"{path}/expire", {"expires": "7 days"})
    page = await visitor.send(f"{path}/switch", {"enabled": "no"})

    assert "Enable again" in page
    for shown in ("gpt-4*", "10.0.0.0/8", "batch", 'href="/policies/strict"'):
        assert shown in page
    await visitor.send(f"{path}/change", {"priority": "urgent"}, status=422)
    refused = await visitor.send(f"{path}/change", {"sources": "everywhere"}, status=409)
    assert "is no network" in refused


async def test_a_form_of_a_key_that_another_person_changed_meanwhile_is_refused(
    console: FastAPI, world: World
) -> None:
    """It holds every bound as it was, so that it would take the other's away."""
    path = f"/keys/{world.keys[0]}"
    first, second = await Visitor.of(console, "admin"), await Visitor.of(console, "admin")
    seen = re.search(r'name="seen" value="([^"]+)"', await first.get(path))
    await second.get(path)
    await second.send(f"{path}/change", {"sources": "10.0.0.0/8", "tags": "env=prod"})

    stale = {"tags": "env=test", "seen": seen[1] if seen else ""}
    refused = await first.send(f"{path}/change", stale, status=409)
    seen = re.search(r'name="seen" value="([^"]+)"', refused)
    assert seen is not None
    anew = {"sources": "10.0.0.0/8", "tags": "env=test", "seen": seen[1]}
    page = await first.send(f"{path}/change", anew)

    assert "this was changed since the page was read" in refused
    assert "10.0.0.0/8" in refused
    assert "env=test" in page


async def test_a_pasted_key_leads_to_its_page_and_its_secret_to_no_address(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/keys")

    page = await visitor.send("/keys/find", {"key": f"egk_{world.keys[0]}"})
    assert world.keys[0] in page
    await visitor.send("/keys/find", {"key": "not a key"}, status=404)
    assert "not a key</" not in visitor.page


async def test_a_filter_finds_keys_of_a_team_by_state_and_tag(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "admin")

    found = await visitor.get("/keys?team=acme/search&state=active&tag=env%3Dprod")
    none = await visitor.get("/keys?organization=globex&state=revoked")
    unknown = await visitor.get("/keys?organization=umbrella")

    assert world.keys[0] in found
    assert world.keys[1] not in found
    assert "No key matches." in none
    assert "there is no organization umbrella" in unknown


async def test_a_team_lead_manages_keys_of_the_own_team_and_sees_no_other(
    console: FastAPI, world: World
) -> None:
    visitor = await Visitor.of(console, "team_lead:acme/search")

    page = await visitor.get("/keys")
    await visitor.get(NEW)

    assert world.keys[0] in page
    assert world.keys[1] not in page
    assert world.keys[2] not in page
    await visitor.get(f"/keys/{world.keys[1]}", status=404)
    await visitor.get("/organizations/globex/teams/lab/keys/new", status=404)
    await visitor.send(f"/keys/{world.keys[2]}/revoke", {}, status=404)
    await visitor.send(f"/keys/{world.keys[0]}/limits", {"remove": "cost/month"}, status=403)
    await visitor.send(f"/keys/{world.keys[0]}/revoke", {})


async def test_a_team_lead_binds_no_policy_to_a_new_key(console: FastAPI) -> None:
    """The policy of a key comes before that of its team: a lead could choose a weaker one."""
    lead = await Visitor.of(console, "team_lead:acme/search")
    page = await lead.get(NEW)
    assert 'name="policy"' not in page

    await lead.send(NEW, {"name": "ci", "policy": "strict"}, status=403)

    assert SECRET.search(await lead.send(NEW, {"name": "ci"}))


async def test_models_of_a_key_stay_within_those_of_its_organization(
    console: FastAPI, world: World
) -> None:
    async with console.state.pool.acquire() as connection:
        await connection.execute("UPDATE organizations SET allowed_models = '{gpt-*}'")
    lead = await Visitor.of(console, "team_lead:acme/search")
    path = f"/keys/{world.keys[0]}/change"
    await lead.get(NEW)

    await lead.send(NEW, {"name": "ci", "models": "*"}, status=403)
    await lead.send(path, {"models": "gpt-4 o3"}, status=403)

    assert "gpt-4" in await lead.send(path, {"models": "gpt-4"})
    operator = await Visitor.of(console, "operator:acme")
    team = "/organizations/acme/teams/search"
    await operator.get(team)
    await operator.send(f"{team}/change", {"models": "*"}, status=403)
    assert "gpt-5" in await operator.send(f"{team}/change", {"models": "gpt-5"})


async def test_a_team_lead_sets_no_priority_and_the_rest_of_the_form_works(
    console: FastAPI, world: World
) -> None:
    """At a limit that teams share, a higher one takes from the others."""
    lead = await Visitor.of(console, "team_lead:acme/search")
    path = f"/keys/{world.keys[0]}"
    assert 'name="priority"' not in await lead.get(path)

    await lead.send(f"{path}/change", {"priority": "interactive"}, status=403)

    assert "gpt-4*" in await lead.send(f"{path}/change", {"models": "gpt-4*"})


async def test_a_filter_does_not_tell_whether_anothers_object_is_there(
    console: FastAPI, world: World
) -> None:
    """A team, an organization, a name that others use too, a key of the page before."""
    viewer = await Visitor.of(console, "viewer:acme")
    for there, none in (
        ("team=globex/lab", "team=globex/none"),
        ("team=lab", "team=none"),
        ("organization=globex", "organization=none"),
        (f"after={world.keys[2]}", "after=AAAAAAAAAAAA"),
    ):
        pages = [
            re.sub(rf"\b{one.partition('=')[2]}\b", "asked", await viewer.get(f"/keys?{one}"))
            for one in (there, none)
        ]
        assert pages[0] == pages[1]
    for own in ("team=acme/search", "team=search", "organization=acme"):
        assert world.keys[0] in await viewer.get(f"/keys?{own}")
    lead = await Visitor.of(console, "viewer:acme/search")
    assert world.keys[0] in await lead.get("/keys?organization=acme")


async def test_a_word_that_is_no_choice_changes_nothing(console: FastAPI, world: World) -> None:
    """It was taken for `never`, and for 24 hours."""
    visitor = await Visitor.of(console, "admin")
    key = f"/keys/{world.keys[0]}"
    await visitor.get(key)
    await visitor.send(f"{key}/expire", {"expires": "7 days"})
    for path, fields in (
        (f"{key}/expire", {"expires": "1 week"}),
        (f"{key}/expire", {}),
        (f"{key}/rotate", {"grace": "1 day"}),
        (f"{key}/rotate", {"expires": "1 week"}),
        (NEW, {"name": "ci", "expires": "1 week"}),
    ):
        await visitor.send(path, fields, status=422)

    page = await visitor.get(key)
    assert "Replaced by" not in page
    assert "<dt>Expires</dt><dd><time" in page
