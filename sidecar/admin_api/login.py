"""Logging in and out: one-time links, and the identity of the caller."""

from __future__ import annotations

import html
import secrets
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin_api import oidc
from sidecar.admin_api.access import (
    Access,
    AccessRoute,
    Services,
    check_login_rate,
    check_origin,
    read_form,
    requires,
)
from sidecar.admin_api.problems import Problem, not_found
from sidecar.admin_api.roles import Permission, Role
from sidecar.admin_api.sign_in import (
    LOGIN_SECONDS,
    begin_login,
    create_session,
    end_session,
    take_link_login,
    take_login,
)
from sidecar.storage.pool import borrow
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent

router = APIRouter(include_in_schema=False)
"""Pages of the login, which need no session."""
api_router = APIRouter(route_class=AccessRoute, tags=["sessions"])

_HOME: Final = "/"
_PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Egret</title>'
    '<meta name="viewport" content="width=device-width"></head>'
    "<body><h1>Egret</h1>{}</body></html>"
)


def login_path(next_path: str) -> str:
    """Return the address of the login, which leads back to *next_path*."""
    return f"/login?next={quote(local_path(next_path), safe='/')}"


def local_path(path: str) -> str:
    """Return *path* if it is one of this site, else the home page: no open redirect."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\", "/login"))
    return path if is_local and path.isprintable() and "\\" not in path else _HOME


@router.get("/login")
async def login_page(request: Request, next: str = _HOME) -> Response:  # noqa: A002 - its name
    """Show the ways to log in."""
    services: Services = request.app.state.services
    has_oidc = services.settings.admin.oidc_issuer is not None
    if (render := request.app.state.login_page) is not None:
        page: Response = await render(request, oidc=has_oidc, next=local_path(next))
        return page
    ways = "<p>Run <code>egret admin login-link</code> for a one-time link.</p>"
    if has_oidc:
        target = html.escape(quote(local_path(next), safe="/"))
        ways = f'<p><a href="/login/oidc?next={target}">Log in</a></p>{ways}'
    return HTMLResponse(_PAGE.format(ways))


@router.get("/login/link")
async def link_page(request: Request, token: str = "") -> Response:
    """Show a button: a program that only follows links must not use the login up."""
    if (render := request.app.state.link_page) is not None:
        page: Response = await render(request, token=token)
        return page
    return HTMLResponse(
        _PAGE.format(
            '<form method="post" action="/login/link">'
            f'<input type="hidden" name="token" value="{html.escape(token)}">'
            "<button autofocus>Log in</button></form>"
        )
    )


@router.post("/login/link")
async def log_in_by_link(request: Request) -> Response:
    """Begin a session for a one-time link, once."""
    services: Services = request.app.state.services
    check_login_rate(request, services)
    check_origin(request, services)
    token = (await read_form(request)).get("token")
    postgres = services.postgres
    async with borrow(services.pool, postgres) as connection, connection.transaction():
        found = await take_link_login(connection, token) if isinstance(token, str) else None
        if found is None:
            get_logger().warning(LogEvent.ADMIN_LOGIN_REFUSED, reason="link")
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                "the link was used, or is older than five minutes",
                hint="make another with `egret admin login-link`",
            )
        person, grants = found
        secret = await create_session(
            connection, person, grants, source="link", settings=services.settings.admin
        )
    get_logger().info(LogEvent.ADMIN_LOGIN, person=person, source="link")
    return begun(services, secret, _HOME)


@router.get("/login/oidc")
async def begin_oidc(request: Request, next: str = _HOME) -> Response:  # noqa: A002 - its name
    """Send the browser to the identity provider."""
    services: Services = request.app.state.services
    if services.settings.admin.oidc_issuer is None:
        raise not_found("identity provider")
    check_login_rate(request, services)
    state, browser = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    login = await oidc.begin(
        services.settings.admin, state=state, browser=browser, next_path=local_path(next)
    )
    async with borrow(services.pool, services.postgres) as connection:
        await begin_login(connection, "oidc", login.details, secret=state)
    response = RedirectResponse(login.url, HTTPStatus.SEE_OTHER)
    _set_cookie(response, services, _login_cookie(services), browser, seconds=LOGIN_SECONDS)
    return response


@router.get(oidc.CALLBACK)
async def finish_oidc(request: Request) -> Response:
    """Begin a session for the person whom the identity provider names, once."""
    services: Services = request.app.state.services
    check_login_rate(request, services)
    admin = services.settings.admin
    answer = dict(request.query_params)
    browser = request.cookies.get(_login_cookie(services), "")
    async with borrow(services.pool, services.postgres) as connection:
        # Apart from the session's transaction: a refused answer must use the state up.
        details = await take_login(connection, "oidc", answer.get("state", ""))
    if details is None:
        get_logger().warning(LogEvent.ADMIN_LOGIN_REFUSED, reason="state")
        raise Problem(
            HTTPStatus.BAD_REQUEST,
            "this login was finished before, or is older than five minutes",
            hint="log in again",
        )
    # Without a connection: a provider that hangs would hold the whole pool.
    claims = await oidc.finish(admin, details, answer, browser=browser)
    async with borrow(services.pool, services.postgres) as connection:
        person = await oidc.person_of(claims, admin, connection)
        secret = await create_session(
            connection, person.name, person.grants, source="oidc", settings=admin
        )
    get_logger().info(LogEvent.ADMIN_LOGIN, person=person.name, source="oidc")
    response = begun(services, secret, local_path(str(details["next"])))
    response.delete_cookie(_login_cookie(services), path="/", secure=admin.is_encrypted)
    return response


def _login_cookie(services: Services) -> str:
    return f"{services.cookie}-login"


def begun(services: Services, secret: str, path: str) -> Response:
    """Return the redirect that gives a new session's cookie to the browser."""
    response = RedirectResponse(path, HTTPStatus.SEE_OTHER)
    seconds = services.settings.admin.session_seconds
    _set_cookie(response, services, services.cookie, secret, seconds=seconds)
    return response


def _set_cookie(
    response: Response, services: Services, name: str, value: str, *, seconds: float
) -> None:
    response.set_cookie(
        name,
        value,
        max_age=int(seconds),
        path="/",
        secure=services.settings.admin.is_encrypted,
        httponly=True,
        samesite="lax",
    )


class GrantedRole(BaseModel):
    """A role for the installation, an organization or a team."""

    role: Role
    organization: str | None
    team: str | None
    permissions: list[Permission]


class Me(BaseModel):
    """The caller, as the audit log names it."""

    person: str
    grants: list[GrantedRole]
    csrf_token: str
    """For the header `X-CSRF-Token`; empty for a token, which needs none."""


_NAMES: Final = """
SELECT o.id, o.name FROM organizations AS o WHERE o.id = ANY($1::text[])
UNION ALL
SELECT t.id, o.name || '/' || t.name FROM teams AS t
JOIN organizations AS o ON o.id = t.organization_id WHERE t.id = ANY($1::text[])
"""


@api_router.get("/me")
async def show_me(access: Annotated[Access, requires(None)]) -> Me:
    """Show who is logged in, and with which roles."""
    ids = {id_ for one in access.grants for id_ in (one.organization_id, one.team_id) if id_}
    rows = await access.connection.fetch(_NAMES, list(ids))
    names = {row["id"]: row["name"] for row in rows}
    return Me(
        person=access.person,
        grants=[
            GrantedRole(
                role=grant.role,
                organization=names.get(grant.organization_id or "", grant.organization_id),
                team=names.get(grant.team_id or "", grant.team_id),
                permissions=[one for one in Permission if grant.has(one)],
            )
            for grant in access.grants
        ],
        csrf_token=access.csrf_token,
    )


log_out_router = APIRouter(route_class=AccessRoute, include_in_schema=False)


@log_out_router.post("/logout")
async def log_out(request: Request, access: Annotated[Access, requires(None)]) -> Response:
    """End the session."""
    services: Services = request.app.state.services
    if secret := request.cookies.get(services.cookie):
        await end_session(access.connection, secret)
    response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    response.delete_cookie(
        services.cookie, path="/", secure=services.settings.admin.is_encrypted, httponly=True
    )
    return response
