"""Sends requests made from the OpenAPI schema to a running `egret admin`: none may end in a 500.

    python -m tests.support.fuzz_admin build/fuzz/bin/schemathesis --max-examples 50

Schemathesis has an environment of its own: it needs another jsonschema-rs than a worker.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from egret_tools.devstack.databases import running_postgres
from egret_tools.devstack.processes import Children
from pydantic import SecretStr

from sidecar.admin_api.application import API, create_app
from sidecar.admin_api.roles import Grant, Role
from sidecar.admin_api.sign_in import create_token, reveal_token
from sidecar.keys.credentials import generate
from sidecar.settings.administration import AdminSettings
from sidecar.settings.process import Settings
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import connect

HOST, PORT = "127.0.0.1", 9466
OBJECTS = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES ('team_1', 'org_1', 'search');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    VALUES ('AAAAAAAAAAA1', sha256('one'), 'team_1', 'laptop');
"""
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"


async def fuzz(command: Sequence[str]) -> int:
    """Serve a new database, run *command* against it, and return its exit code."""
    with tempfile.TemporaryDirectory(prefix="egret-fuzz-") as place:
        logs = Path(place) / "logs"
        logs.mkdir()
        directory = Path(place) / "postgres"
        async with running_postgres(Children(), directory=directory, logs=logs) as dsn:
            postgres = PostgresSettings(dsn=SecretStr(dsn))
            await migrate(postgres)
            key = generate(secrets.token_bytes)
            async with connect(postgres) as connection:
                await connection.execute(OBJECTS)
                await create_token(
                    connection, key, name="fuzz", grant=Grant(Role.ADMIN), created_by="fuzz",
                    life=None,
                )  # fmt: skip
            admin = AdminSettings(
                host=HOST, port=PORT, requests_per_second=10_000, logins_per_minute=10_000
            )
            app = create_app(Settings(postgres=postgres, admin=admin))
            server = uvicorn.Server(
                uvicorn.Config(app, host=HOST, port=PORT, log_level="error", access_log=False)
            )
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(server.serve())
                while not (server.started or serving.done()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                process = await asyncio.create_subprocess_exec(
                    command[0], "run", f"http://{HOST}:{PORT}{API}/openapi.json",
                    "--header", f"Authorization: Bearer {reveal_token(key)}",
                    "--checks", CHECKS, "--exclude-path", f"{API}/tokens/{{token_id}}/revoke",
                    *command[1:],
                )  # fmt: skip
                code = await process.wait()
                server.should_exit = True
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(fuzz(sys.argv[1:])))
