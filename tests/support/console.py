"""The console over a real database with a little of everything, for tests of its pages."""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
from fastapi import FastAPI

from sidecar.admin.keys import create_key
from sidecar.admin.limits import Owner, change_limits
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.console.website import add_console
from sidecar.domain.limits import Level
from sidecar.keys.credentials import generate
from sidecar.keys.scopes import Scopes
from sidecar.limits.limit_syntax import Selectors, parse_limit
from sidecar.settings.process import Settings
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import apply_policy
from tests.support.admin_api import running_app, session_client

STRICT: Final = """\
name: strict
guardrails:
  - name: secrets
    type: secrets
    action: block
  - name: personal-data
    type: pii
    action: redact
    mode: shadow
"""
HOSTILE: Final = "<img src=x onerror=alert(1)>' OR 1=1 --\u202e\x1b[31m"
"""A model's name comes from a client: markup, SQL, right-to-left, a terminal's escape."""

_USAGE: Final = """
INSERT INTO {table} (began_at, key_id, team_id, organization_id, model, requests, refused, failed,
    estimated, unpriced, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
    reasoning_tokens, cost_usd)
VALUES (date_trunc('{unit}', $1::timestamptz, 'UTC'), $2, $3, $4, $5, 40, 3, 1, 0, 0, 9000, 100, 0,
    2000, 0, $6)
ON CONFLICT (began_at, key_id, team_id, model) DO UPDATE SET requests = {table}.requests + 40,
    input_tokens = {table}.input_tokens + 9000, cost_usd = {table}.cost_usd + excluded.cost_usd
"""
_FINDINGS: Final = """
INSERT INTO findings_by_hour
SELECT date_trunc('hour', now(), 'UTC'), 'strict', f.*
FROM (VALUES ('secrets', 'aws_key', 'user', 'block', 'enforce', 3, 4),
    ('personal-data', 'email', 'user', 'redact', 'shadow', 17, 20)) AS f
"""
_TEAM_FINDINGS: Final = """
INSERT INTO findings_by_team
SELECT date_trunc('hour', now(), 'UTC'), t.id, t.organization_id, 'strict', f.guardrail, f.type,
    f.role, f.verdict, f.mode, f.requests, f.findings
FROM (VALUES ('search', 'personal-data', 'email', 'user', 'redact', 'shadow', 17, 20),
    ('lab', 'secrets', 'aws_key', 'user', 'block', 'enforce', 3, 4))
    AS f (team, guardrail, type, role, verdict, mode, requests, findings)
JOIN teams AS t ON t.name = f.team
"""
_WORKER: Final = """
INSERT INTO workers (host, socket, process, version, seen_at, policies, acknowledged)
VALUES ('node-1', $1, $1, '0.1.0', clock_timestamp(), '{"strict": 1}', '{}')
"""


@dataclass(frozen=True, slots=True)
class World:
    """The ids of what is there: `keys` are of acme/search, acme/support and globex/lab."""

    keys: tuple[str, str, str]


async def fill(connection: Connection) -> World:
    """Make two organizations with teams, keys, limits, usage, findings and workers."""
    await apply_policy(connection, "strict", document=STRICT, expected_version=0)
    keys: list[str] = []
    for organization, names in (("acme", ("search", "support")), ("globex", ("lab",))):
        await create_organization(connection, organization, rules=Rules(policy="strict"))
        for name in names:
            await create_team(connection, name, organization=organization, rules=Rules())
            key = generate(secrets.token_bytes)
            await create_key(
                connection,
                key,
                owner=(f"{organization}/{name}", "laptop"),
                expires_at=None,
                rules=Rules(),
                scopes=Scopes(tags=("env=prod",)),
            )
            keys.append(key.key_id)
    owner = Owner(Level.TEAM, "acme/search")
    await change_limits(
        connection,
        owner,
        lambda before: (
            parse_limit(
                "cost/month=10", level=Level.TEAM, owner=before.owner_id, selectors=Selectors()
            ),
        ),
    )
    now = datetime.now(UTC)
    rows = await connection.fetch(
        "SELECT k.public_id, k.team_id, t.organization_id FROM api_keys AS k"
        " JOIN teams AS t ON t.id = k.team_id"
    )
    for number, row in enumerate(rows):
        for hours in range(0, 20, 3):
            model = HOSTILE if hours == 0 else "gpt-4o"
            of_hour, of_day = now - timedelta(hours=hours), now - timedelta(days=2 + hours)
            # An hour is in its day too: of a whole day reports read only the day.
            for unit, at in (("hour", of_hour), ("day", of_hour), ("day", of_day)):
                statement = _USAGE.format(table=f"usage_by_{unit}", unit=unit)
                await connection.execute(statement, at, *row, model, 1 + number)
    await connection.execute(_FINDINGS)
    await connection.execute(_TEAM_FINDINGS)
    for number in range(2):
        await connection.execute(_WORKER, f"worker-{number}.sock")
    return World((keys[0], keys[1], keys[2]))


@asynccontextmanager
async def running_console(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with the console in it."""
    async with running_app(settings) as app:
        if not any(getattr(route, "path", "") == "/static" for route in app.routes):
            add_console(app)
        yield app


class Visitor:
    """A person at the console, who sends its forms as a browser without JavaScript does."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.page = ""
        self.token = ""

    @classmethod
    async def of(cls, app: FastAPI, *grants: str) -> Visitor:
        """Sign in with these grants; the token comes from the pages, not from a header."""
        client = await session_client(app, *grants)
        del client.headers["x-csrf-token"]
        return cls(client)

    async def get(self, path: str, *, status: int = 200) -> str:
        """Read a page."""
        return self._seen(await self.client.get(path), status)

    async def send(self, path: str, fields: dict[str, str], *, status: int = 200) -> str:
        """Send a form of the page last read, follow its redirect, and return the page then."""
        answer = await self.client.post(path, data={**fields, "csrf_token": self.token})
        if answer.status_code == httpx.codes.SEE_OTHER:
            answer = await self.client.get(answer.headers["location"])
        return self._seen(answer, status)

    def _seen(self, answer: httpx.Response, status: int) -> str:
        assert answer.status_code == status, (answer.status_code, answer.text[:2000])
        assert "<script>" not in answer.text
        assert not re.search(r"""\s(?:on\w+|style)=["']""", answer.text), "inline script or style"
        if "text/html" in answer.headers["content-type"]:
            self.page = answer.text
            if found := re.search(r'name="csrf_token" value="([0-9a-f]+)"', answer.text):
                self.token = found[1]
        return answer.text

    @property
    def text(self) -> str:
        """The words of the page, without markup."""
        return html.unescape(re.sub(r"<[^>]+>", " ", self.page))


EDIT: Final = {
    "policy": "strict",
    "version": "1",
    "document": f"{STRICT}# unsaved <words>\n".replace("action: redact", "action: block"),
}
"""The form of an edited policy, with a comment in it."""
