from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI

from tests.support.admin_api import admin_settings
from tests.support.console import World, fill, running_console
from tests.support.postgres import Database, logged_in


@pytest.fixture
async def world(database: Database) -> World:
    """A little of everything."""
    async with database.connect() as connection:
        return await fill(connection)


@pytest.fixture
async def console(database: Database, world: World) -> AsyncIterator[FastAPI]:  # noqa: ARG001 - filled before
    """The console over that world, with no more than the database role of its own."""
    async with logged_in(database, "egret_console") as postgres:
        settings = admin_settings(database).model_copy(update={"postgres": postgres})
        async with running_console(settings) as app:
            yield app
