from __future__ import annotations

import html
import re

import pytest
from fastapi import FastAPI

from tests.support.admin_api import API, client_of, token_client
from tests.support.console import Visitor

FORM = {"name": "ci", "role": "viewer", "owner": "", "life": "30 days"}


async def test_a_token_is_shown_once_works_and_is_revoked(console: FastAPI) -> None:
    """Its text is in the answer to the form alone."""
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/tokens")

    made = await visitor.send("/tokens", FORM | {"owner": "acme/search"})
    secret = re.findall(r"ega_\w+", made)[0]
    program = client_of(console, authorization=f"Bearer {secret}")
    before = await program.get(f"{API}/keys")
    listed = await visitor.get("/tokens")
    token_id = re.findall(r"/tokens/(\w+)/revoke", listed)[0]
    revoked = await visitor.send(f"/tokens/{token_id}/revoke", {})
    after = await program.get(f"{API}/keys")

    assert before.status_code == 200
    assert {one["team"] for one in before.json()["items"]} == {"acme/search"}
    assert secret not in listed
    assert "acme/search" in listed
    assert ">revoked<" in revoked
    assert after.status_code == 401


async def test_a_token_has_no_permission_that_its_maker_lacks(console: FastAPI) -> None:
    """A refused form comes back as it was filled; nothing of another organization is shown."""
    visitor, lead = await Visitor.of(console, "admin:acme"), await Visitor.of(console, "operator")
    await visitor.get("/tokens")

    wrong = await visitor.send("/tokens", FORM | {"name": "No name", "owner": "acme"})
    await visitor.send("/tokens", FORM | {"role": "admin"}, status=403)
    await visitor.send("/tokens", FORM | {"owner": "globex"}, status=404)
    made = await visitor.send("/tokens", FORM | {"owner": "acme", "role": "operator"})

    assert 'value="No name"' in wrong
    assert "ega_" in made
    assert "globex" not in await visitor.get("/tokens")
    await lead.get("/tokens", status=403)


async def test_tokens_are_shown_page_by_page(
    console: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of them made a page of megabytes."""
    visitor = await Visitor.of(console, "admin")
    for name in ("one", "three", "two"):
        await token_client(console, "viewer", name=name)
    monkeypatch.setattr("sidecar.console.token_pages.PAGE_SIZE", 2)

    first = await visitor.get("/tokens")
    link = re.findall(r'href="(/tokens\?after=[^"]+)"', first)
    second = await visitor.get(html.unescape(link[0]))

    names = [re.findall(r"<bdi>(one|two|three)</bdi>", page) for page in (first, second)]
    assert names == [["one", "three"], ["two"]]
    assert "Next page" not in second
