"""Builds the application of `egret admin`: services, errors, headers, and the API's routers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPMethod, HTTPStatus
from typing import Annotated, Final, Never

import asyncpg
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidecar import __version__
from sidecar.admin.installation.objects import InstallationError
from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin_api import (
    alert_routes,
    idempotency,
    installation_routes,
    key_routes,
    limit_routes,
    login,
    owner_routes,
    policy_routes,
    report_routes,
    sign_in,
    token_routes,
)
from sidecar.admin_api.access import (
    SAFE_METHODS,
    Access,
    AccessRoute,
    Services,
    requires,
)
from sidecar.admin_api.openapi import openapi_of
from sidecar.admin_api.problems import Problem, problem_of
from sidecar.admin_api.rates import Rates
from sidecar.admin_api.roles import Permission
from sidecar.alerts.service import AlertService
from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.parse import PolicyDocumentError
from sidecar.settings.process import Settings
from sidecar.storage.pool import UNAVAILABLE, InvalidDsnError, borrow, open_pool
from sidecar.telemetry.admin_metrics import AdminMetrics
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent

API: Final = "/api/v1"
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_FILES_BYTES: Final = 32 * 1024 * 1024
"""Of the files of an installation: a hundred thousand keys."""
_SWEEP_SECONDS: Final = 600
_FORM_CHARSETS: Final = {b"utf-8", b"utf8"}

_SIGN_INS: Final = {"/login/link": "link", "/login/callback": "oidc"}

SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; font-src 'self'; form-action 'self'; frame-ancestors 'none';"
        " base-uri 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not `no-referrer`: browsers would send `Origin: null` with forms.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_EXPECTED: Final = (
    Problem,
    ChangeRefusedError,
    InstallationError,
    PolicyDocumentError,
    CompileError,
    RequestValidationError,
    HTTPException,
    InvalidDsnError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its lifespan opens the pool of connections."""
    app = FastAPI(
        title="Egret administration",
        version=__version__,
        summary="Organizations, teams, keys, limits, policies and reports of an Egret.",
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.metrics = metrics = AdminMetrics(CollectorRegistry())
    app.state.error_page = None
    app.state.login_page = None
    app.state.link_page = None
    for router in (
        owner_routes.router,
        key_routes.router,
        limit_routes.router,
        policy_routes.router,
        installation_routes.price_router,
        report_routes.router,
        alert_routes.router,
        installation_routes.router,
        token_routes.router,
        login.api_router,
    ):
        app.include_router(router, prefix=API)
    app.include_router(login.router)
    app.include_router(login.log_out_router)
    app.add_api_route("/healthz", _health, include_in_schema=False)
    for kind in _EXPECTED:
        app.add_exception_handler(kind, _answer)
    app.openapi = lambda: openapi_of(app)  # type: ignore[method-assign]
    app.include_router(_router)
    app.add_middleware(_Answers, metrics=metrics, is_encrypted=settings.admin.is_encrypted)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    admin = settings.admin
    # PostgreSQL ends a statement at `query_seconds`; this is for one that never answers.
    budgets = {"query_seconds": admin.query_seconds + 1, "pool_size": admin.pool_size}
    async with open_pool(settings.postgres.model_copy(update=budgets)) as pool:
        app.state.pool = pool
        app.state.services = Services(
            settings=settings,
            pool=pool,
            rates=Rates.of(admin),
        )
        async with asyncio.TaskGroup() as tasks:
            sweeper = tasks.create_task(_sweep(app.state.services))
            alerts = AlertService(settings.postgres, settings.alerts, metrics=app.state.metrics)
            tasks.create_task(alerts.run())
            yield
            alerts.stop()
            sweeper.cancel()


async def _sweep(services: Services) -> Never:
    """Delete expired sessions, logins and idempotency keys now and then."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        with suppress(*UNAVAILABLE):
            async with borrow(services.pool, services.postgres) as connection:
                await sign_in.delete_expired(connection)
                await idempotency.delete_expired(connection)


_router = APIRouter(route_class=AccessRoute, include_in_schema=False)


@_router.get("/metrics")
async def _metrics(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],  # noqa: ARG001
) -> Response:
    """Return the metrics of this process, to a scraper with a token."""
    return Response(
        generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST
    )


async def _health() -> Response:
    """Return 200 while the process serves; the database's state does not restart it."""
    return PlainTextResponse("ok\n")


def _route(scope: Scope) -> str:
    """Return the route's own path: names in the request's may be long, or of people."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return "-"
    # A route has its path without the prefix of the router that was included.
    is_below = scope["path"].startswith(f"{API}/") and not path.startswith(API)
    return f"{API}{path}" if is_below else str(path)


async def _answer(request: Request, error: Exception) -> Response:
    """Return problem details to a program, a page to a person, the login without a session."""
    problem = problem_of(error)
    if problem is None:
        get_logger().error(LogEvent.ADMIN_FAILED, path=_route(request.scope), exc_info=error)
        problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault in Egret; see its log")
    if request.url.path.startswith("/api/") or "authorization" in request.headers:
        return problem.response()
    if problem.status == HTTPStatus.UNAUTHORIZED and request.method in SAFE_METHODS:
        return RedirectResponse(login.login_path(request.url.path), HTTPStatus.SEE_OTHER)
    if (render := request.app.state.error_page) is not None:
        page: Response = await render(request, problem)
        return page
    return PlainTextResponse(
        f"{problem.title}: {problem.detail}\n", problem.status, headers=dict(problem.headers or {})
    )


class _Answers:
    """Counts each answer, gives it security headers, and bounds the body of the request.

    It answers unexpected errors too: the framework would do so outside of it, without headers.

    Of a form in parts the framework would decode each by the codec that the client names, and some
    take minutes or fail. A route may set other headers. The framework's own bound would answer
    without any, and without problem details.
    """

    def __init__(self, app: ASGIApp, *, metrics: AdminMetrics, is_encrypted: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = dict(SECURITY_HEADERS)
        if is_encrypted:
            self._headers["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        declared, received = int(length) if length.isdecimal() else 0, 0
        has_files = scope["path"].startswith(f"{API}/installation/")
        most = MAX_FILES_BYTES if has_files else MAX_BODY_BYTES

        kind, options = parse_options_header(headers.get("content-type"))
        charset = options.get(b"charset", b"utf-8").lower()
        is_read = kind != b"multipart/form-data" or charset in _FORM_CHARSETS

        async def within_bound() -> Message:
            nonlocal received
            if not is_read:
                problem = "the charset of a form can be utf-8 alone"
                raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, problem)
            message = await receive()
            received += len(message.get("body", b""))
            if max(declared, received) > most:
                problem = f"the body has more than {most // 1024**2} MiB"
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem)
            return message

        has_begun = False

        async def with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                self._count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, within_bound, with_headers)
        except Exception as error:
            if has_begun:
                raise
            answer = await _answer(Request(scope, receive), error)
            await answer(scope, receive, with_headers)

    def _count(self, scope: Scope, status: int) -> None:
        route = _route(scope)
        # Any word can stand as a method, and each would make a series that stays.
        method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "other"
        self._metrics.answered(route, method, status)
        if status == HTTPStatus.UNAUTHORIZED and "authorization" in Headers(scope=scope):
            self._metrics.sign_in_refused("token")
        elif status >= HTTPStatus.BAD_REQUEST and route in _SIGN_INS:
            self._metrics.sign_in_refused(_SIGN_INS[route])
