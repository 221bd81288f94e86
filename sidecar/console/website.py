"""Adds the console to the application of `egret admin`: pages, static files, error pages."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from typing_extensions import override

from sidecar.admin_api.access import (
    CSRF_FIELD,
    SAFE_METHODS,
    Services,
    check_form_rate,
    is_of_this_site,
    read_form,
)
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.sign_in import csrf_token
from sidecar.console import (
    alert_pages,
    changes,
    key_pages,
    limit_pages,
    overview_pages,
    owner_pages,
    policy_pages,
    price_pages,
    report_pages,
    token_pages,
)
from sidecar.console.rendering import STATIC, csrf_field, render_plain

ROUTERS: Final = (
    overview_pages.router,
    report_pages.router,
    key_pages.router,
    owner_pages.router,
    limit_pages.router,
    policy_pages.router,
    price_pages.router,
    token_pages.router,
    alert_pages.router,
    changes.router,
)
_TITLES: Final = {
    HTTPStatus.UNAUTHORIZED: "Sign in again",
    HTTPStatus.FORBIDDEN: "Not allowed",
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.CONFLICT: "Not changed",
    HTTPStatus.SERVICE_UNAVAILABLE: "Not available now",
}
_GIVES_BACK: Final = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Refusals of a form that say nothing about its content: it is given back to be sent again."""

_KEPT_BACK: Final = {CSRF_FIELD, "key", "token"}
"""Fields that may hold a secret, and the token that the page sets anew."""


def add_console(app: FastAPI) -> FastAPI:
    """Add pages at `/`, files at `/static`, and the pages for errors and the login."""
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", _StaticFiles(directory=STATIC))
    app.state.error_page = error_page
    app.state.login_page = login_page
    app.state.link_page = link_page
    return app


class _StaticFiles(StaticFiles):
    """Files whose address changes with their content, so that browsers may keep them."""

    @override
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == HTTPStatus.OK:
            response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


async def login_page(request: Request, oidc: bool, next: str) -> Response:  # noqa: A002, ARG001 - as the API calls it
    """Return the page that offers a login."""
    return render_plain("login.html", title="Sign in to Egret", oidc=oidc, next=next)


async def link_page(_: Request, token: str) -> Response:
    """Return the page of a one-time link: a button, which uses the link up."""
    return render_plain("link.html", title="Sign in to Egret", token=token)


async def error_page(request: Request, problem: Problem) -> Response:
    """Return a page for *problem*; a form that was not judged comes back with its text.

    Not one of another site: the page has the session's token, so that one click would send it.
    """
    services: Services = request.app.state.services
    is_form = request.method not in SAFE_METHODS and is_of_this_site(request, services)
    secret = request.cookies.get(services.cookie)
    fields: list[tuple[str, str]] = []
    # Without a session's cookie nothing that a stranger sends is read.
    if secret is not None and is_form and problem.status in _GIVES_BACK:
        with suppress(Problem, HTTPException):  # the page is of the problem before
            check_form_rate(request, services)
            form = await read_form(request)
            fields = [
                (name, value)
                for name, value in form.multi_items()
                if isinstance(value, str) and name not in _KEPT_BACK
            ]
    response = render_plain(
        "problem.html",
        status=problem.status,
        title=_TITLES.get(HTTPStatus(problem.status), problem.title),
        detail=problem.detail,
        hint=problem.hint,
        is_signed_out=problem.status == HTTPStatus.UNAUTHORIZED,
        fields=fields,
        action=request.url.path,
        csrf=lambda: csrf_field(csrf_token(secret) if secret else ""),
    )
    response.headers.update(problem.headers or {})
    return response
