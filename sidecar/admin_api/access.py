"""Authentication, transaction and permission of each request of a person or a program.

`AccessRoute` authenticates, opens the transaction, and commits before the answer leaves. A route
declares its permission by `requires`, which checks it on the owner that the path names.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from typing_extensions import override

from sidecar.admin.audit_log import ACTOR_SETTING
from sidecar.admin.in_force import (
    Barrier,
    ChangeNotPublishedError,
    notify_barrier,
    publish_change,
    wait_in_force,
)
from sidecar.admin_api import idempotency
from sidecar.admin_api.idempotency import Change
from sidecar.admin_api.problems import Problem, check_query, not_found
from sidecar.admin_api.rates import Rates, check_rate, too_many
from sidecar.admin_api.roles import (
    INSTALLATION_WIDE,
    Grant,
    Permission,
    allows,
    owners_within,
)
from sidecar.admin_api.sign_in import Identity, csrf_token, find_session, find_token
from sidecar.settings.process import Settings
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, Pool, borrow

SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf_token"
FORMS: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
IN_FORCE_HEADER: Final = "egret-in-force"
WAIT: Final = "wait"
"""Parameter of every write: its answer waits until live workers have the change."""
WAIT_SECONDS: Final = 20.0
BODY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Services:
    """All that requests share: `app.state.services`."""

    settings: Settings
    pool: Pool
    rates: Rates

    @property
    def postgres(self) -> PostgresSettings:
        """Return the settings of the pool."""
        admin = self.settings.admin
        budgets = {"query_seconds": admin.query_seconds, "pool_size": admin.pool_size}
        return self.settings.postgres.model_copy(update=budgets)

    @property
    def cookie(self) -> str:
        """Return the name of the session's cookie; browsers bind `__Host-` to host and https."""
        return "__Host-egret" if self.settings.admin.is_encrypted else "egret_admin"


@dataclass(slots=True, kw_only=True)
class Access:
    """One request of a person or a program, in its transaction.

    `organization_id` and `team_id` are those of the path, once `requires` has found them.
    """

    connection: Connection
    identity: Identity
    csrf_token: str
    settings: Settings
    organization_id: str | None = None
    team_id: str | None = None
    shows_secret: bool = False
    """Its answer is not kept for an idempotency key."""
    _keys: list[str] = field(default_factory=list)
    _policies: dict[str, int] = field(default_factory=dict)
    _barrier: Barrier | None = None
    _waits: bool = False

    @property
    def person(self) -> str:
        """Return the name for the audit log."""
        return self.identity.name

    @property
    def grants(self) -> tuple[Grant, ...]:
        """Return the grants of the person or program."""
        return self.identity.grants

    def allows(
        self,
        permission: Permission,
        organization_id: str | None = None,
        team_id: str | None = None,
    ) -> bool:
        """Return whether *permission* is granted on an owner; without ids, the installation."""
        return allows(self.grants, permission, organization_id=organization_id, team_id=team_id)

    def check(self, permission: Permission) -> None:
        """Check a further permission on the owner of the path.

        Raises:
            Problem: 403.
        """
        if not self.allows(permission, self.organization_id, self.team_id):
            raise forbidden(permission)

    def within(self, permission: Permission) -> tuple[str, ...] | None:
        """Return the ids of organizations and teams with *permission*; None is every one."""
        return owners_within(self.grants, permission)

    def changed(
        self, *, keys: Sequence[str] = (), policies: Mapping[str, int] | None = None
    ) -> Barrier:
        """Note a change, for workers; return the barrier behind which each of them has it.

        `keys` are ids of keys, `team:<id>`, `organization:<id>` or `*`.
        """
        self._keys.extend(keys)
        self._policies.update(policies or {})
        token = self._barrier.token if self._barrier else Barrier().token
        self._barrier = Barrier(token=token, policies=dict(self._policies))
        return self._barrier

    @property
    def change(self) -> Change | None:
        """Return the change that was noted, None without one."""
        return Change(self._keys, self._policies) if self._barrier is not None else None

    def wait(self) -> None:
        """Let the answer wait until live workers have the change, for `WAIT_SECONDS` at most."""
        self._waits = True

    async def notify(self) -> None:
        """Send the barrier, behind the notifications of this transaction's changes."""
        if self._barrier is not None:
            await notify_barrier(self.connection, self._barrier)

    async def publish(self, pool: Pool) -> str | None:
        """Publish the change where the settings use Valkey, and wait for workers if asked.

        Return how far it has come, for `IN_FORCE_HEADER`. It is committed: nothing raises.
        """
        if self._barrier is None:
            return None
        try:
            await publish_change(self.settings, keys=self._keys, policies=self._policies)
            if not self._waits:
                return None
            state = await wait_in_force(pool, self.settings, self._barrier, seconds=WAIT_SECONDS)
        except (ChangeNotPublishedError, *UNAVAILABLE):
            return "unknown"
        if state is None:
            return "unknown"
        return f"workers={len(state.workers)}, behind={len(state.behind)}"


class AccessRoute(APIRoute):
    """A route for people with a session and programs with a token, in one transaction."""

    is_report: ClassVar = False

    @override
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = query_names(self.dependant)

        async def handler(request: Request) -> Response:
            services: Services = request.app.state.services
            identity, token = await _authenticated(request, services)
            check_rate(services.rates.requests, identity.name)
            if self.include_in_schema:
                is_safe = request.method in SAFE_METHODS
                names = known if is_safe else known | {WAIT}
                check_query(request.query_params, names, switch=WAIT)
            async with services.rates.turn(identity.name, is_report=self.is_report):
                if request.method not in SAFE_METHODS:
                    await _receive(request, token)
                    # Again: a body may take so long that the credential was revoked meanwhile.
                    identity, token = await _authenticated(request, services)
                async with _transaction(request, services, identity, token) as access:
                    kept = await idempotency.begin(access.connection, request, identity.name)
                    if kept is None:
                        request.state.access = access
                        response = await handle(request)
                        if response.status_code >= HTTPStatus.BAD_REQUEST:
                            raise _RefusedError(response)
                        await idempotency.end(
                            access.connection, request, response, identity.name,
                            change=access.change, shows_secret=access.shows_secret,
                        )  # fmt: skip
                    else:
                        response = kept.response
                        if kept.change is not None:
                            access.changed(keys=kept.change.keys, policies=kept.change.policies)
                    await access.notify()
            if request.query_params.get(WAIT) == "true":
                access.wait()
            if (state := await access.publish(services.pool)) is not None:
                response.headers[IN_FORCE_HEADER] = state
            return response

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except _RefusedError as refused:
                return refused.response

        return answered


class ReportRoute(AccessRoute):
    """A route that may read much: some of the connections are for no report."""

    is_report = True


def query_names(dependant: Dependant) -> frozenset[str]:
    """Return the parameters of the query that a route and its dependencies read."""
    own = frozenset(one.alias for one in dependant.query_params)
    return own.union(*map(query_names, dependant.dependencies))


async def read_form(request: Request) -> FormData:
    """Return the form that a request has, once all of it has come.

    Raises:
        Problem: 408, it did not end in time; 400, the client left.
        HTTPException: it is no form that is read here.
    """
    await _receive_body(request)
    return await request.form()


async def _receive_body(request: Request) -> None:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            await request.body()
    except TimeoutError:
        problem = f"the body did not end within {BODY_SECONDS:.0f} s; nothing was changed"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, problem, hint="send it again") from None
    except ClientDisconnect:
        problem = "the request ended before its body; nothing was changed"
        raise Problem(HTTPStatus.BAD_REQUEST, problem) from None


async def _receive(request: Request, token: str) -> None:
    """Receive a change before a connection is borrowed: a body without end would hold it.

    Raises:
        Problem: as `read_form` does; 403, a session sends it without the *token* of its forms.
    """
    await _receive_body(request)
    given = request.headers.get(CSRF_HEADER)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if token and given is None and kind in FORMS:
        given = (await read_form(request)).get(CSRF_FIELD)  # type: ignore[assignment]
    # `token` is empty for a program, whose header no browser adds by itself.
    if token and not (
        isinstance(given, str) and hmac.compare_digest(given.encode(), token.encode())
    ):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "the form is not of this session",
            hint="open the page again",
        )


class _RefusedError(Exception):
    """A route answers with an error: its transaction is rolled back."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


_BEGIN: Final = f"""
SELECT set_config('{ACTOR_SETTING}', $1, true), set_config('statement_timeout', $2, true),
    set_config('plan_cache_mode', 'force_custom_plan', true)
"""
"""PostgreSQL ends a statement that takes too long, whatever becomes of this process. A plan for
any value would read far too much if a filter is not given."""


@asynccontextmanager
async def _transaction(
    request: Request, services: Services, identity: Identity, csrf: str
) -> AsyncIterator[Access]:
    async with borrow(services.pool, services.postgres) as connection:
        readonly = request.method in SAFE_METHODS
        async with connection.transaction(readonly=readonly):
            seconds = services.settings.admin.query_seconds
            await connection.execute(_BEGIN, identity.name, f"{seconds * 1000:.0f}")
            yield Access(
                connection=connection,
                identity=identity,
                csrf_token=csrf,
                settings=services.settings,
            )


async def _authenticated(request: Request, services: Services) -> tuple[Identity, str]:
    """Return who sends the request, and the token that the forms of its session carry.

    Raises:
        Problem: 401 without a good session or token, 403 if another site may have sent it.
    """
    secret = request.cookies.get(services.cookie)
    identity = await _identity_of(request, services, secret)
    if "authorization" in request.headers:
        if identity is None:
            check_rate(services.rates.guesses, _address(request))
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "the token is not known, expired or revoked",
                headers={"www-authenticate": "Bearer"},
            )
        return identity, ""
    if identity is None or secret is None:
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "there is no session, or it has expired",
            hint="log in, or send a token as Authorization: Bearer ega_…",
            headers={"www-authenticate": "Bearer"},
        )
    if request.method not in SAFE_METHODS:
        check_origin(request, services)
    return identity, csrf_token(secret)


async def _identity_of(
    request: Request, services: Services, secret: str | None
) -> Identity | None:
    """Find the header's token, or else the session; a refused one counts for the address.

    Raises:
        Problem: 429, it is refused, and so were too many of the address.
    """
    header, address, is_refused = request.headers.get("authorization"), _address(request), False
    scheme, _, text = (header or "").partition(" ")
    if not secret if header is None else scheme.lower() != "bearer":
        return None
    # Taken before the query and given back, since many that arrive at once would all pass.
    wait = services.rates.refused.wait_seconds(address, now=time.monotonic())
    try:
        # A good one may come from the same proxy. Others of the address cost one query at a time.
        async with services.rates.suspects if wait else nullcontext():
            pool, postgres = services.pool, services.postgres
            if header is not None:
                identity = await find_token(pool, text.strip(), postgres=postgres)
            else:
                idle_seconds = services.settings.admin.session_idle_seconds
                identity = await find_session(
                    pool, secret or "", postgres=postgres, idle_seconds=idle_seconds
                )
        is_refused = identity is None
    finally:
        if not is_refused and not wait:
            services.rates.refused.give_back(address)
    if is_refused and wait:
        raise too_many(wait)
    return identity


def _address(request: Request) -> str:
    return request.client.host if request.client else "-"


def is_of_this_site(request: Request, services: Services) -> bool:
    """Return whether a page of this site sends the request, by what the browser says."""
    origin = request.headers.get("origin")
    if origin is None:
        parts = urlsplit(request.headers.get("referer", ""))
        origin = f"{parts.scheme}://{parts.netloc}"
    return origin in services.settings.admin.origins


def check_origin(request: Request, services: Services) -> None:
    """Refuse a change that a page of another site sends.

    Raises:
        Problem: 403.
    """
    if not is_of_this_site(request, services):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "the request does not come from a page of this site",
            hint=f"open {services.settings.admin.origin}, as EGRET_ADMIN__PUBLIC_URL says",
        )


def check_form_rate(request: Request, services: Services) -> None:
    """Count a form that is given back to the client's address, be its session good or not.

    Raises:
        Problem: 429.
    """
    check_rate(services.rates.forms, _address(request))


def check_login_rate(request: Request, services: Services) -> None:
    """Count a login of the client's address.

    Raises:
        Problem: 429.
    """
    check_rate(services.rates.logins, _address(request))


_OF_KEY: Final = """
SELECT t.organization_id, t.id AS team_id FROM api_keys AS k JOIN teams AS t ON t.id = k.team_id
WHERE k.public_id = $1
"""
_OF_TEAM: Final = """
SELECT o.id AS organization_id, t.id AS team_id
FROM organizations AS o JOIN teams AS t ON t.organization_id = o.id
WHERE o.name = $1 AND t.name = $2
"""
_OF_ORGANIZATION: Final = """
SELECT o.id AS organization_id, NULL AS team_id FROM organizations AS o WHERE o.name = $1
"""
_LOCK: Final = " FOR NO KEY UPDATE OF"
"""The second of two changes to one object reads it after the first has ended: tags hold."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A dependency that checks a permission on the owner in the path, and returns the access."""

    permission: Permission | None
    anywhere: bool = False

    async def __call__(self, request: Request) -> Access:
        """Return the access, if it has the permission.

        Raises:
            Problem: 403; 404 if the owner is not there or the caller may not even view it.
        """
        access: Access = request.state.access
        path = request.path_params
        if self.permission is None:
            return access
        if self.anywhere:
            if access.within(self.permission) == ():
                raise forbidden(self.permission)
            return access
        if "organization" not in path and "key_id" not in path:
            if not access.allows(self.permission):
                raise forbidden(self.permission)
            return access
        locks = request.method not in SAFE_METHODS
        if "key_id" in path:
            await find_key_owner(access, path["key_id"], locks=locks)
        else:
            await find_owner(access, path["organization"], path.get("team"), locks=locks)
        owner = access.organization_id, access.team_id
        needed = (None, None) if self.permission in INSTALLATION_WIDE else owner
        if not access.allows(self.permission, *needed):
            raise forbidden(self.permission)
        return access


async def find_owner(
    access: Access, organization: str, team: str | None = None, *, locks: bool = False
) -> None:
    """Find an owner by its names, and set it as that of *access*; the caller must view it.

    Raises:
        Problem: 404, which does not say whether it is there.
    """
    if team is None:
        statement, names = _OF_ORGANIZATION + (f"{_LOCK} o" if locks else ""), [organization]
    else:
        statement, names = _OF_TEAM + (f"{_LOCK} t" if locks else ""), [organization, team]
    await _set_owner(access, statement, names, "organization or team")


async def find_key_owner(access: Access, key_id: str, *, locks: bool = False) -> None:
    """Find a key's owner, and set it as that of *access*; the caller must view it.

    Raises:
        Problem: 404, which does not say whether it is there.
    """
    await _set_owner(access, _OF_KEY + (f"{_LOCK} k" if locks else ""), [key_id], "key")


async def _set_owner(access: Access, statement: str, names: Sequence[str], kind: str) -> None:
    row = await access.connection.fetchrow(statement, *names)
    if row is None:
        raise not_found(kind)
    if not access.allows(Permission.VIEW, row["organization_id"], row["team_id"]):
        raise not_found(kind)
    access.organization_id, access.team_id = row["organization_id"], row["team_id"]


def forbidden(permission: Permission) -> Problem:
    """Return the answer for a caller without *permission*."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        f"this needs the permission {permission.value}",
        hint="ask an administrator for a role that has it; GET /api/v1/me shows yours",
    )


def requires(permission: Permission | None, *, anywhere: bool = False) -> Any:
    """Return the dependency of a route: its permission, None for any signed-in caller.

    With *anywhere* it is enough to have it for some owner; the route filters by `within`.
    """
    return Depends(Requirement(permission, anywhere))
