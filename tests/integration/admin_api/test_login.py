from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI

from sidecar.admin_api import access
from sidecar.admin_api.login import local_path
from sidecar.admin_api.roles import Grant, Role
from sidecar.admin_api.sign_in import begin_link_login
from tests.support.admin_api import API, admin_settings, client_of, running_app
from tests.support.postgres import Database


async def link(app: FastAPI) -> str:
    async with app.state.pool.acquire() as connection:
        return await begin_link_login(connection, "alice", [Grant(Role.ADMIN)])


async def test_a_link_logs_in_once(app: FastAPI) -> None:
    """Opening it uses nothing up; its button does. The second press is refused."""
    secret, browser = await link(app), client_of(app)

    opened = [await browser.get("/login/link", params={"token": secret}) for _ in range(2)]
    pressed = await browser.post("/login/link", data={"token": secret})
    me = await browser.get(f"{API}/me")
    again = await client_of(app).post("/login/link", data={"token": secret})

    assert [one.status_code for one in opened] == [200, 200]
    cookie = pressed.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert me.json()["person"] == "alice"
    assert again.status_code == 400


async def test_a_link_is_too_old_after_five_minutes(app: FastAPI) -> None:
    """By the database's clock, and for another site's page never good."""
    secret, other = await link(app), await link(app)
    async with app.state.pool.acquire() as connection:
        await connection.execute(
            "UPDATE admin_logins SET expires_at = expires_at - interval '300 s'"
        )

    old = await client_of(app).post("/login/link", data={"token": secret})
    foreign = await client_of(app).post(
        "/login/link", data={"token": other}, headers={"origin": "https://evil.example.com"}
    )

    assert (old.status_code, foreign.status_code) == (400, 403)


async def test_over_https_the_cookie_is_bound_to_the_host(database: Database) -> None:
    """`__Host-` and Secure, and browsers stay on https."""
    settings = admin_settings(database, public_url="https://egret.example.com")
    async with running_app(settings) as app:
        answer = await client_of(app).post("/login/link", data={"token": await link(app)})

    assert answer.headers["set-cookie"].startswith("__Host-egret=")
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_a_token_in_a_link_is_text_and_no_markup(app: FastAPI) -> None:
    """The page holds it escaped."""
    page = await client_of(app).get("/login/link", params={"token": '"><script>x</script>'})

    assert "<script>" not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("charset", ["punycode", "idna", "unicode_escape", '"utf-16"'])
async def test_a_client_does_not_choose_the_codec_of_a_form(app: FastAPI, charset: str) -> None:
    """Some take minutes for a field, or make text of it that is none."""
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    body = b'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\n\\ud800\r\n--b--\r\n'

    codes = [
        (
            await client_of(app).post("/login/link", content=body, headers={"content-type": one})
        ).status_code
        for one in (kind, kind.replace(charset, "UTF-8"), kind.replace(charset, '"utf8"'))
    ]

    assert codes == [415, 400, 400]


async def test_a_login_whose_body_does_not_end_in_time_is_refused(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to be known to send it."""
    monkeypatch.setattr(access, "BODY_SECONDS", 0.01)

    async def endless() -> AsyncIterator[bytes]:
        yield b"token="
        await asyncio.Event().wait()

    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = await client_of(app).post("/login/link", content=endless(), headers=kind)

    assert answer.status_code == 408


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/keys", "/keys"),
        ("//evil.example.com", "/"),
        ("/\\evil.example.com", "/"),
        ("/a\\b", "/"),
        ("https://evil.example.com", "/"),
        ("/\r\nset-cookie: a=b", "/"),
        ("/login", "/"),
        ("", "/"),
    ],
)
def test_a_login_leads_to_a_page_of_this_site(path: str, leads_to: str) -> None:
    """Never elsewhere."""
    assert local_path(path) == leads_to
