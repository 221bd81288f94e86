from __future__ import annotations

from fastapi import FastAPI

from sidecar.storage.migrate import BARRIERS_CHANNEL
from tests.support.admin_api import session_client
from tests.support.console import Visitor, World
from tests.support.postgres import Database


async def test_a_change_is_watched_until_every_worker_acknowledges_it(
    console: FastAPI, world: World, database: Database
) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get("/in-force?watch=0123456789abcdef&policy=strict:1")
    assert "0 of 2 workers have the change" in page
    assert 'hx-trigger="load delay:400ms"' in page
    await database.execute("UPDATE workers SET acknowledged = '{0123456789abcdef}'")
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


async def test_versions_of_policies_are_compared_for_people_who_may_view_them(
    console: FastAPI, database: Database
) -> None:
    """An organization's viewer could find out by the counts which version is in force."""
    await database.execute("UPDATE workers SET acknowledged = '{0123456789abcdef}'")
    pages: list[str] = []
    for grant in ("viewer", "viewer:acme"):
        visitor = await Visitor.of(console, grant)
        pages.append(await visitor.get("/in-force?watch=0123456789abcdef&policy=strict:2"))

    assert "0 of 2 workers have the change" in pages[0]
    assert "In force in all 2 workers." in pages[1]


async def test_a_silent_worker_is_reported_and_not_waited_for(
    console: FastAPI, database: Database
) -> None:
    visitor = await Visitor.of(console, "admin")
    await database.execute("UPDATE workers SET seen_at = now() - interval '1 minute'")

    page = await visitor.get("/in-force?watch=0123456789abcdef")

    assert "the others have not reported for a while" in page
    await visitor.get(f"/in-force?watch={'a' * 99}", status=422)


async def test_a_viewer_sends_workers_a_barrier_a_second_however_often_it_looks(
    console: FastAPI, database: Database
) -> None:
    """Five at once, and every page is shown nevertheless; another person's are not held up."""
    received: list[object] = []
    alice, bob = [await session_client(console, "viewer", person=name) for name in ("a", "b")]
    async with database.connect() as connection:
        await connection.add_listener(BARRIERS_CHANNEL, lambda *args: received.append(args[-1]))
        for place in range(20):
            page = await alice.get(f"/in-force?watch={place:016x}")
            assert "0 of 2 workers have the change" in page.text
        await bob.get("/in-force?watch=b")
        await connection.execute("SELECT 1")

    assert received[:5] == [f"{place:016x}" for place in range(5)]
    assert received[-1] == "b"
    assert len(received) < 15
