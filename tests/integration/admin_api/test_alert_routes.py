from __future__ import annotations

from fastapi import FastAPI

from tests.support.admin_api import API, session_client
from tests.support.alerts import route_text
from tests.support.installation import apply_text

TEST = f"{API}/alerts/routes/ops/test"


async def test_routes_and_alerts_are_listed_and_a_test_is_sent_by_those_who_may(
    app: FastAPI,
) -> None:
    """A viewer sees them; one of an organization does not."""
    async with app.state.pool.acquire() as connection:
        await apply_text(connection, route_text(more="severity: critical\n"))
    admin, viewer = await session_client(app, "admin"), await session_client(app, "viewer")
    stranger = await session_client(app, "operator:acme")

    (route,) = (await viewer.get(f"{API}/alerts/routes")).json()
    sent = await admin.post(TEST)
    refused = [
        await viewer.post(TEST),
        await stranger.get(f"{API}/alerts"),
        await stranger.get(f"{API}/alerts/routes"),
    ]
    unknown = await admin.post(f"{API}/alerts/routes/none/test")
    states = [
        await viewer.get(f"{API}/alerts/messages/{one}")
        for one in (sent.json()["message_id"], "msg_none")
    ]
    history = (await viewer.get(f"{API}/alerts")).json()
    of_none = await viewer.get(f"{API}/alerts?organization=none")

    assert (route["name"], route["secret"], route["severity"]) == ("ops", "file:ops", "critical")
    assert (sent.status_code, sent.json()["message_id"][:4]) == (202, "msg_")
    assert [one.status_code for one in refused] == [403, 403, 403]
    assert unknown.status_code in {404, 409, 422}
    assert of_none.status_code == 404
    assert [one.status_code for one in states] == [200, 404]
    assert [(one["alert"]["rule"], one["route"]) for one in history] == [("test", "ops")]
