from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI

from tests.support.admin_api import admin_settings, running_app
from tests.support.postgres import Database

OWNERS = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme'), ('org_2', 'globex');
INSERT INTO teams (id, organization_id, name) VALUES
    ('team_1', 'org_1', 'search'), ('team_2', 'org_2', 'search'), ('team_3', 'org_1', 'ads');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name) VALUES
    ('AAAAAAAAAAA1', sha256('one'), 'team_1', 'laptop'),
    ('AAAAAAAAAAA2', sha256('two'), 'team_2', 'laptop'),
    ('AAAAAAAAAAA3', sha256('three'), 'team_3', 'laptop');
"""


@pytest.fixture
async def app(database: Database) -> AsyncIterator[FastAPI]:
    """The application, with two organizations, three teams and a key in each."""
    async with database.connect() as connection:
        await connection.execute(OWNERS)
    async with running_app(admin_settings(database)) as running:
        yield running
