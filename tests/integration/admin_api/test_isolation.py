"""Every endpoint of the API and the console, by every role, for another organization's objects.

The cases are made of the application's own routes: a new one is among them without further words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from sidecar.admin_api.access import SAFE_METHODS, AccessRoute, Requirement, query_names
from sidecar.admin_api.application import create_app
from sidecar.admin_api.roles import INSTALLATION_WIDE, PERMISSIONS, Permission, Role
from sidecar.console.website import add_console
from sidecar.settings.process import Settings
from tests.support.admin_api import session_client

PUBLIC: Final = {"/healthz", "/login", "/login/link", "/login/oidc", "/login/callback"}
PATH: Final = {"organization": "acme", "team": "search", "key_id": "AAAAAAAAAAA1", "version": "1"}
ACME: Final = ("org_1", "team_1", "team_3", "AAAAAAAAAAA1", "AAAAAAAAAAA3", "walrus")
GLOBEX: Final = ("org_2", "team_2", "AAAAAAAAAAA2", "otter", "globex")
GRANTS: Final = (
    *(role.value for role in Role),
    *(f"{role.value}:acme" for role in Role),
    "viewer:globex",
    "admin:globex",
    *(
        f"{role}:{team}"
        for team in ("acme/search", "acme/ads", "globex/search")
        for role in ("viewer", "team_lead")
    ),
)
QUERIES: Final[tuple[dict[str, str], ...]] = (
    {},
    {
        "organization": "acme",
        "team": "acme/search",
        "owner": "acme/search",
        "by": "key",
        "by_team": "true",
        "object_id": "AAAAAAAAAAA1",
    },
    {"key": "AAAAAAAAAAA1"},
)
"""Of lists and reports: names of another organization must find nothing."""

OBJECTS: Final = """
UPDATE api_keys SET name = 'walrus' WHERE public_id IN ('AAAAAAAAAAA1', 'AAAAAAAAAAA3');
UPDATE api_keys SET name = 'otter' WHERE public_id = 'AAAAAAAAAAA2';
UPDATE organizations SET limits = '[{"measure": "cost", "window": "month", "amount": 5000000}]';
UPDATE teams SET limits = '[{"measure": "cost", "window": "month", "amount": 1000000}]';
INSERT INTO admin_tokens (id, secret_sha256, name, role, organization_id, created_by) VALUES
    ('TTTTTTTTTTT1', sha256('1'), 'walrus', 'viewer', 'org_1', 'walrus'),
    ('TTTTTTTTTTT2', sha256('2'), 'otter', 'viewer', 'org_2', 'otter');
SELECT egret_prepare_usage(1);
INSERT INTO usage (occurred_at, request_id, key_id, team_id, organization_id, operation, provider,
    request_model, status, decision, latency_ms, input_tokens, output_tokens) VALUES
    (now(), 'r1', 'AAAAAAAAAAA1', 'team_1', 'org_1', 'chat', 'openai', 'walrus', 200, 'allow',
     8, 10, 5),
    (now(), 'r2', 'AAAAAAAAAAA2', 'team_2', 'org_2', 'chat', 'openai', 'otter', 200, 'allow',
     8, 10, 5);
INSERT INTO findings_by_team
SELECT date_trunc('hour', now(), 'UTC'), team, org, name, name, name, name, name, name, 1, 1
FROM (VALUES ('team_1', 'org_1', 'walrus'), ('team_2', 'org_2', 'otter')) AS f (team, org, name);
"""


@dataclass(frozen=True)
class Endpoint:
    """A method and a path with its declared permission."""

    method: str
    path: str
    requirement: Requirement
    parameters: frozenset[str] | None
    """Those that it knows; None takes any."""

    @property
    def url(self) -> str:
        """The path with objects of the organization acme."""
        return re.sub(r"\{(\w+)\}", lambda match: PATH.get(match[1], "none"), self.path)

    @property
    def owner(self) -> tuple[str, str | None] | None:
        """The organization and team that the path names; None is the installation."""
        if "{key_id}" in self.path or "{team}" in self.path:
            return "acme", "acme/search"
        return ("acme", None) if "{organization}" in self.path else None

    def expected(self, grant: str) -> int | None:
        """The status of a refusal for this grant, None if it may go on: by the table of roles."""
        permission = self.requirement.permission
        if permission is None:
            return None
        if self.requirement.anywhere:
            return None if _has(grant, permission) else 403
        if self.owner is None:
            return None if ":" not in grant and _has(grant, permission) else 403
        if not _covers(grant, Permission.VIEW, self.owner):
            return 404
        return None if _covers(grant, permission, self.owner) else 403


def _has(grant: str, permission: Permission) -> bool:
    role, _, owner = grant.partition(":")
    return permission in PERMISSIONS[Role(role)] and not (
        owner and permission in INSTALLATION_WIDE
    )


def _covers(grant: str, permission: Permission, owner: tuple[str, str | None]) -> bool:
    return _has(grant, permission) and grant.partition(":")[2] in {"", *owner}


def endpoints() -> Iterator[Endpoint]:
    """Every endpoint that needs a session; fails for one that does not say what it requires."""
    for route in iter_route_contexts(add_console(create_app(Settings())).routes):
        one = route.original_route
        if not isinstance(one, APIRoute) or route.path in PUBLIC:
            continue
        assert isinstance(one, AccessRoute), route.path
        (requirement,) = [
            part.call for part in one.dependant.dependencies if isinstance(part.call, Requirement)
        ]
        for method in route.methods or ():
            known = query_names(one.dependant) if one.include_in_schema else None
            yield Endpoint(method, str(route.path), requirement, known)


ENDPOINTS: Final = [one for one in endpoints() if one.requirement.permission is not None]


@pytest.fixture
async def filled(app: FastAPI) -> FastAPI:
    """The application with the console, and objects of two organizations."""
    async with app.state.pool.acquire() as connection:
        await connection.execute(OBJECTS)
    return add_console(app)


async def test_no_role_reaches_another_organization_at_any_endpoint(filled: FastAPI) -> None:
    """Refused as the table of roles says; an answer never holds another's names or ids."""
    faults: list[str] = []
    for grant in GRANTS:
        client = await session_client(filled, grant, person=grant)
        for one in ENDPOINTS:
            expected = one.expected(grant)
            if expected is None and one.method not in SAFE_METHODS:
                continue  # it would change something
            for query in QUERIES if one.owner is None else ({},):
                known = {
                    name: value
                    for name, value in query.items()
                    if one.parameters is None or name in one.parameters
                }
                if query and not known:
                    continue  # as without a query
                answer = await client.request(one.method, one.url, params=known)
                faults += _faults(grant, one, answer, expected)
    async with filled.state.pool.acquire() as connection:
        changes = await connection.fetchval(
            "SELECT count(*) FROM audit_log WHERE actor = ANY($1)", list(GRANTS)
        )

    assert faults == []
    assert changes == 0
    assert len(ENDPOINTS) > 80


def _faults(
    grant: str, one: Endpoint, answer: httpx.Response, expected: int | None
) -> Iterator[str]:
    words = f"{grant}: {one.method} {answer.request.url.raw_path.decode()}: {answer.status_code}"
    if expected is not None and answer.status_code != expected:
        yield f"{words}, not {expected}"
    if expected is None and (
        answer.status_code in {401, 403}
        or answer.status_code >= 500
        or (one.owner is not None and answer.status_code == 404)
    ):
        yield f"{words}, though it may"
    owner = grant.partition(":")[2]
    if owner and one.path != "/api/v1/me":
        others = GLOBEX if owner.startswith("acme") else ACME
        asked = str(answer.request.url)
        yield from (
            f"{words} shows {name}" for name in others if name in answer.text and name not in asked
        )


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_session_no_endpoint_tells_anything(filled: FastAPI, method: str) -> None:
    """401 below the API, the login elsewhere; whether an object is there does not matter."""
    from tests.support.admin_api import client_of  # noqa: PLC0415

    client = client_of(filled)
    codes = {
        (await client.request(method, one.url)).status_code
        for one in ENDPOINTS
        if one.method == method
    }

    assert codes <= {401, 303}
