from __future__ import annotations

from fastapi import FastAPI

from tests.support.console import Visitor, World
from tests.support.postgres import Database


async def test_a_change_is_watched_until_every_worker_acknowledges_it(
    console: FastAPI, world: World, database: Database
) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get("/in-force?watch=0123456789abcdef&policy=strict:1")
    assert "0 of 2 workers have the change" in page
    assert 'hx-trigger="load delay:400ms"' in page
    async with database.server.connect(database.name) as connection:
        await connection.execute("UPDATE workers SET acknowledged = '{0123456789abcdef}'")
    page = await visitor.get("/in-force?watch=0123456789abcdef&policy=strict:1")
    assert "In force in all 2 workers." in page
    assert "hx-get" not in page
    assert "Look again" in page
    part = await visitor.client.get(
        "/in-force?watch=0123456789abcdef", headers={"hx-request": "true"}
    )
    assert part.text.strip().startswith('<div id="in-force">')
    page = await visitor.get("/in-force?watch=0123456789abcdef&policy=strict:2")
    assert "0 of 2 workers have the change" in page
    assert world.keys[0] not in page


async def test_a_silent_worker_is_reported_and_not_waited_for(
    console: FastAPI, database: Database
) -> None:
    visitor = await Visitor.of(console, "admin")
    async with database.server.connect(database.name) as connection:
        await connection.execute("UPDATE workers SET seen_at = now() - interval '1 minute'")

    page = await visitor.get("/in-force?watch=0123456789abcdef")

    assert "the others have not reported for a while" in page
    await visitor.get(f"/in-force?watch={'a' * 99}", status=422)
