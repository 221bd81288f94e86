from __future__ import annotations

import base64

import pytest
from egret_tools.mock_llm.received import ReceivedRequest, ReceivedRequests

from tests.unit.tools.mock_llm.conftest import OPENAI_KEY, Mock

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
BEARER = {"authorization": f"Bearer {OPENAI_KEY}"}


async def test_the_last_request_is_shown_byte_for_byte(mock: Mock) -> None:
    """Method, path with query, every header in order, and the body as it came."""
    async with mock.https() as https:
        await https.post(
            "/v1/chat/completions?a=1",
            content=b"\xff not json",
            headers=[*BEARER.items(), ("X-Twice", "1"), ("X-Twice", "2")],
        )
    async with mock.debug.get("/last") as answer:
        last = await answer.json()
    assert (last["method"], last["path"]) == ("POST", "/v1/chat/completions?a=1")
    assert base64.b64decode(last["body_base64"]) == b"\xff not json"
    assert last["headers"]["x-twice"] == "1, 2"
    assert [pair for pair in last["header_pairs"] if pair[0] == "x-twice"] == [
        ["x-twice", "1"],
        ["x-twice", "2"],
    ]


async def test_before_the_first_request_there_is_no_last_one(mock: Mock) -> None:
    """404 says that nothing reached the provider, which is what a refusal must look like."""
    async with mock.debug.get("/last") as answer:
        assert answer.status == 404


async def test_requests_are_counted_listed_and_cleared(mock: Mock) -> None:
    """A refused credential counts too: it reached the provider."""
    async with mock.https() as https:
        for number in range(3):
            await https.post(f"/v1/completions?n={number}", json={})
    async with mock.debug.get("/requests", params={"limit": "2"}) as answer:
        listed = [request["path"] for request in await answer.json()]
    async with mock.debug.get("/count") as answer:
        before = await answer.json()
    await mock.debug.delete("/requests")
    async with mock.debug.get("/count") as answer:
        after = await answer.json()
    assert listed == ["/v1/completions?n=1", "/v1/completions?n=2"]
    assert (before, after) == (
        {"count": 3, "broken_off": 0},
        {"count": 0, "broken_off": 0},
    )


async def test_a_failure_lasts_for_as_many_requests_as_ordered(mock: Mock) -> None:
    """The status is the dialect's error, then the mock answers again."""
    await mock.debug.post("/status", json={"status": 503, "count": 2})
    async with mock.https() as https:
        statuses = [
            (await https.post("/v1/chat/completions", json=CHAT, headers=BEARER)).status_code
            for _ in range(3)
        ]
    assert statuses == [503, 503, 200]


async def test_words_and_pauses_can_be_ordered_and_reset(mock: Mock) -> None:
    """A reset brings back the usual answer."""
    await mock.debug.post("/answer", json={"text": "ordered words"})
    await mock.debug.post("/delay", json={"ms": 1, "event_ms": 1})
    async with mock.https() as https:
        ordered = await https.post(
            "/v1/chat/completions", json={**CHAT, "stream": True}, headers=BEARER
        )
        await mock.debug.delete("/behaviour")
        usual = await https.post("/v1/chat/completions", json=CHAT, headers=BEARER)
    assert '"content":"ordered"' in ordered.text
    assert ordered.text.endswith("data: [DONE]\n\n")
    assert usual.json()["choices"][0]["message"]["content"].startswith("The mock model")


@pytest.mark.parametrize(
    ("path", "order"),
    [
        pytest.param("/delay", {"ms": -1}, id="negative pause"),
        pytest.param("/status", {"status": 200}, id="a success is no failure"),
        pytest.param("/answer", {}, id="no words"),
        pytest.param("/delay", {"seconds": 1}, id="unknown field"),
    ],
)
async def test_a_wrong_order_is_refused(mock: Mock, path: str, order: dict[str, object]) -> None:
    """400 names the field."""
    async with mock.debug.post(path, json=order) as answer:
        assert answer.status == 400
        assert (next(iter(order), "text")) in await answer.text()


def test_old_requests_make_room_for_new_ones() -> None:
    """Bounded in number and in bytes, but the newest always stays."""
    kept = ReceivedRequests(max_kept=3, max_kept_bytes=10)
    for size in (4, 4, 4, 11):
        kept.add(ReceivedRequest(method="POST", path=f"/{size}", headers=(), body=b"x" * size))
    last = kept.last()
    assert last is not None
    assert (kept.count, [request.path for request in kept.newest(9)]) == (4, ["/11"])
    assert last.path == "/11"
