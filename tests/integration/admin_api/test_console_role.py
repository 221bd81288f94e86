"""All that `egret admin` does, as a member of `egret_console` and of nothing else."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import pytest

from sidecar.admin_api.access import SAFE_METHODS
from sidecar.console.website import add_console
from tests.integration.admin_api.conftest import OWNERS
from tests.integration.admin_api.test_isolation import ENDPOINTS
from tests.support.admin_api import API, admin_settings, running_app, session_client
from tests.support.postgres import Database, logged_in

POLICY = "name: strict\nguardrails: [{name: a, type: pii}]\n"
ACME = f"{API}/organizations/acme"
WRITES: Final[tuple[tuple[str, str, dict[str, Any] | None], ...]] = (
    ("POST", f"{API}/organizations", {"name": "initech"}),
    ("POST", f"{ACME}/teams", {"name": "maps"}),
    ("PATCH", f"{ACME}/teams/maps", {"enabled": False}),
    ("DELETE", f"{ACME}/teams/maps", None),
    ("POST", f"{ACME}/teams/search/keys", {"name": "ci"}),
    ("PATCH", f"{API}/keys/AAAAAAAAAAA1", {"tags": ["a"]}),
    ("POST", f"{API}/keys/AAAAAAAAAAA1/rotate", {}),
    ("POST", f"{API}/keys/AAAAAAAAAAA1/revoke", None),
    ("PUT", f"{ACME}/limits", {"limits": [{"limit": "cost/month=5"}]}),
    ("POST", f"{API}/policies/apply", {"documents": POLICY}),
    ("POST", f"{API}/policies/strict/rollback", {"to": 1}),
    ("POST", f"{API}/tokens", {"name": "ci", "role": "viewer"}),
    ("POST", f"{API}/installation/apply", {"files": {"a": f"kind: Policy\n{POLICY}"}}),
)


async def test_the_role_of_the_console_can_do_all_that_the_console_does(
    database: Database,
) -> None:
    """Each page and each kind of change; also the ends of sessions."""
    await database.execute(OWNERS)
    faults: list[str] = []
    async with logged_in(database, "egret_console") as postgres:
        settings = admin_settings(database).model_copy(update={"postgres": postgres})
        async with running_app(settings) as app:
            add_console(app)
            admin = await session_client(app, "admin")
            for method, url, body in WRITES:
                answer = await admin.request(
                    method, url, json=body, headers={"idempotency-key": f"{method} {url}"}
                )
                if not answer.is_success:
                    faults.append(f"{method} {url}: {answer.status_code} {answer.text}")
            for one in ENDPOINTS:
                if one.method in SAFE_METHODS:
                    answer = await admin.get(one.url)
                    if answer.status_code >= 500:
                        faults.append(f"{one.url}: {answer.status_code} {answer.text[:300]}")
            left = await admin.post("/logout")

    assert faults == []
    assert left.status_code == 303


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT egret_drop_usage(1)",
        "DELETE FROM usage",
        "DELETE FROM audit_log",
        "UPDATE audit_log SET actor = 'x'",
        "TRUNCATE api_keys",
        "ALTER TABLE api_keys DISABLE TRIGGER ALL",
        "INSERT INTO workers (host) VALUES ('x')",
    ],
)
async def test_the_role_of_the_console_can_do_no_more(database: Database, statement: str) -> None:
    """No usage is deleted, and nothing is changed behind the audit log."""
    async with (
        logged_in(database, "egret_console") as postgres,
        running_app(admin_settings(database).model_copy(update={"postgres": postgres})) as app,
        app.state.pool.acquire() as connection,
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
