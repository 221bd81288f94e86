"""Whatever is wrong with a request, its key, its policy or the database: a clear answer, counted.

Clear means: the right status, in the error object of the API the client speaks, with its timing,
and the same in Envoy's access log. Counted means: in the metrics, under its own name.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from sidecar.admin.keys import expire_key, revoke_key
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import connect
from sidecar.storage.postgres_policies import apply_policy, load_policy
from tests.support.command_line import Egret
from tests.support.http2 import Http2Answer, http2_request
from tests.support.more_workers import more_workers
from tests.support.stack import (
    CHAT,
    MESSAGES,
    Answer,
    Counted,
    Stack,
    as_json,
    chat,
    message,
)

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    503: "api_error",
}
DIALECTS = pytest.mark.parametrize("path", [CHAT, MESSAGES], ids=["openai", "anthropic"])


def prompt(path: str, content: object = "hello") -> dict[str, object]:
    """Return a request in the terms of the API at *path*."""
    return message(content) if path.startswith(MESSAGES) else chat(content)


def assert_refused(answer: Answer, path: str, *, status: int, code: str) -> None:
    """Check the error object, and that the answer carries its own timing."""
    if path.startswith(MESSAGES):
        assert answer.anthropic_error == (status, ANTHROPIC_TYPES[status])
    else:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        assert answer.openai_error == (status, kind, code)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-response-time"].endswith("ms")
    assert "egret;dur=" in answer.headers["server-timing"]
    assert ("retry-after" in answer.headers) == (status == 503)


UNREAD = (403, "unscanned_content")


async def assert_logged(stack: Stack, answer: Answer, *, code: str) -> None:
    """Check that Envoy logged the refusal by the same name."""
    line = await stack.log_line(answer.request_id)
    assert (line["status"], line["details"]) == (answer.status, f"egret_{code}")
    assert line["egret"]["error"] == code


# Keys.


async def _key(stack: Stack, kind: str) -> str:
    settings = PostgresSettings(dsn=SecretStr(stack.facts.postgres_dsn))
    match kind:
        case "wrong secret":
            good, other = await stack.new_key("block"), await stack.new_key("block")
            return other.reveal().replace(other.key_id, good.key_id)
        case "expired":
            key = await stack.new_key("block")
            async with connect(settings) as connection:
                await expire_key(connection, key.key_id, at=datetime.now(UTC))
            return key.reveal()
        case "revoked":
            key = await stack.new_key("block")
            async with connect(settings) as connection:
                await revoke_key(connection, key.key_id)
            return key.reveal()
        case "doubled":
            return f"{stack.keys['block']}{stack.keys['block']}"
        case "cut short":
            return stack.keys["block"][:-1]
        case _:
            return kind


@DIALECTS
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        pytest.param("wrong secret", "invalid_api_key", id="wrong secret"),
        pytest.param("egk_" + 12 * "z" + "_" + 49 * "z", "invalid_api_key", id="wrong checksum"),
        pytest.param("sk-of-somebody-else", "invalid_api_key", id="another kind of key"),
        pytest.param("egk_", "invalid_api_key", id="malformed"),
        pytest.param("cut short", "invalid_api_key", id="cut short"),
        pytest.param("doubled", "invalid_api_key", id="doubled"),
        pytest.param("expired", "expired_api_key", id="expired"),
        pytest.param("revoked", "revoked_api_key", id="revoked"),
    ],
)
async def test_a_bad_key_is_refused(stack: Stack, path: str, kind: str, code: str) -> None:
    """Before a byte of the body is read; nothing reaches the provider."""
    key = await _key(stack, kind)
    async with stack.counting() as counted:
        answer = await stack.post(prompt(path), path=path, key=key)
    assert_refused(answer, path, status=401, code=code)
    assert counted == Counted(outcomes=counted.outcomes)
    assert counted.outcomes == {("refused", "chat", code): 1}
    await assert_logged(stack, answer, code=code)
    assert await stack.received_count() == 0


@DIALECTS
@pytest.mark.parametrize(
    ("names", "code"),
    [
        pytest.param((), "missing_api_key", id="no key"),
        pytest.param(("authorization",) * 2, "conflicting_credentials", id="header twice"),
        pytest.param(("x-api-key",) * 2, "conflicting_credentials", id="another header twice"),
        pytest.param(("authorization", "OTHER"), "conflicting_credentials", id="two that differ"),
    ],
)
async def test_a_key_that_is_missing_or_told_in_two_ways_is_refused(
    stack: Stack, path: str, names: tuple[str, ...], code: str
) -> None:
    """Neither of two keys is believed, since the provider might believe the other."""
    headers = [_presented(stack, name) for name in names]
    async with stack.counting() as counted:
        answer = await stack.post(prompt(path), path=path, headers=headers)
    assert_refused(answer, path, status=401, code=code)
    assert counted.outcomes == {("refused", "chat", code): 1}
    await assert_logged(stack, answer, code=code)
    assert await stack.received_count() == 0


def _presented(stack: Stack, name: str) -> tuple[str, str]:
    if name == "OTHER":
        return "x-api-key", stack.keys["redact"]
    value = stack.keys["block"]
    return name, f"Bearer {value}" if name == "authorization" else value


@DIALECTS
async def test_the_same_key_in_two_headers_is_one_key(stack: Stack, path: str) -> None:
    """Neither copy of it reaches the provider."""
    headers = [_presented(stack, "authorization"), _presented(stack, "x-api-key")]
    async with stack.counting() as counted:
        answer = await stack.post(prompt(path), path=path, headers=headers)
    (received,) = await stack.received()
    assert answer.status == 200
    assert counted.outcomes == {("allowed", "chat", "none"): 1}
    assert stack.keys["block"] not in str(received.headers)


# Bodies.

Content = Callable[[str], object]


async def _in_chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _gzipped(path: str) -> bytes:
    return gzip.compress(as_json(prompt(path)))


def _deep(path: str) -> bytes:
    return as_json(prompt(path)).replace(b'"hello"', b"[" * 200 + b"]" * 200)


def _double(path: str) -> bytes:
    return as_json(prompt(path)).replace(b'"model"', b'"model": "gpt-4o-mini", "model"', 1)


def _nested_double(path: str) -> bytes:
    return as_json(prompt(path)).replace(b'"content"', b'"content": "hi", "content"', 1)


@DIALECTS
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda _: b"", id="no body"),
        pytest.param(lambda _: _in_chunks(), id="empty body"),
        pytest.param(lambda path: as_json(prompt(path))[:-1], id="cut short"),
        pytest.param(lambda path: as_json(prompt(path)) + b"{}", id="bytes after the end"),
        pytest.param(lambda _: b"hello", id="no JSON"),
        pytest.param(lambda _: b"[]", id="no object"),
        pytest.param(lambda _: b'{"model": "m"}', id="no messages"),
        pytest.param(_double, id="duplicate key"),
        pytest.param(_nested_double, id="duplicate key in a message"),
        pytest.param(_deep, id="200 levels"),
        pytest.param(
            lambda path: as_json(prompt(path)).replace(b"hello", b"h\xffllo"), id="not UTF-8"
        ),
        pytest.param(lambda path: b"\xef\xbb\xbf" + as_json(prompt(path)), id="byte order mark"),
        pytest.param(
            lambda path: as_json(prompt(path)).replace(b"hello", b"\\ud800"), id="lone surrogate"
        ),
    ],
)
async def test_a_body_two_parsers_could_read_differently_is_refused(
    stack: Stack, path: str, content: Content
) -> None:
    """400 in the dialect of the client; the connection and the next request are unharmed."""
    async with stack.counting() as counted:
        answer = await stack.post(content(path), path=path, key="block")
    assert_refused(answer, path, status=400, code="invalid_body")
    assert counted.outcomes == {("refused", "chat", "invalid_body"): 1}
    await assert_logged(stack, answer, code="invalid_body")
    assert await stack.received_count() == 0
    assert (await stack.post(prompt(path), path=path, key="block")).status == 200


@DIALECTS
@pytest.mark.parametrize(
    ("where", "content", "headers", "reason", "refusal"),
    [
        pytest.param(
            "", _gzipped, [("content-encoding", "gzip")], "encoded_body", UNREAD, id="gzip"
        ),
        pytest.param(
            "",
            lambda path: as_json(prompt(path)).decode().encode("utf-16"),
            [("content-type", "application/json; charset=utf-16")],
            "charset",
            UNREAD,
            id="another charset",
        ),
        pytest.param(
            "",
            lambda path: as_json(prompt(path)),
            [("content-type", "multipart/form-data; boundary=x")],
            "unknown_shape",
            UNREAD,
            id="no JSON by its type",
        ),
        pytest.param(
            "/else/where", prompt, [], "unknown_route", (404, "unknown_url"), id="unknown path"
        ),
    ],
)
async def test_what_cannot_be_read_is_refused_and_counted_as_unscanned(
    stack: Stack,
    path: str,
    where: str,
    content: Content,
    headers: list[tuple[str, str]],
    *,
    reason: str,
    refusal: tuple[int, str],
) -> None:
    """403 by the policy, 404 for a path, with its reason as a metric of its own."""
    status, code = refusal
    path += where
    async with stack.counting() as counted:
        answer = await stack.post(content(path), path=path, key="block", headers=headers)
    assert_refused(answer, path, status=status, code=code)
    assert {(kind, error) for kind, _, error in counted.outcomes} == {("refused", code)}
    assert counted.unscanned == {(reason, "block"): 1}
    await assert_logged(stack, answer, code=code)
    assert await stack.received_count() == 0


@DIALECTS
async def test_20_megabytes_are_refused_before_they_have_come(stack: Stack, path: str) -> None:
    """413 as soon as the limit is passed."""
    async with stack.counting() as counted:
        sent = await _upload(stack, path, "transfer-encoding: chunked")
    assert 10 * 1024 * 1024 <= sent < 20 * 1024 * 1024
    assert counted.outcomes == {("refused", "chat", "body_too_large"): 1}
    assert await stack.received_count() == 0


@DIALECTS
async def test_a_body_declared_too_large_is_refused_on_its_headers(
    stack: Stack, path: str
) -> None:
    """Even if none of it ever comes."""
    sent = await _upload(stack, path, "content-length: 100000000000", size=0)
    assert sent == 0
    assert await stack.received_count() == 0


async def _upload(stack: Stack, path: str, framing: str, *, size: int = 20 * 1024 * 1024) -> int:
    """Send until there is an answer, which must be 413; return how much was sent."""
    port = int(stack.facts.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (
        *(f"POST {path} HTTP/1.1", "host: localhost", f"x-api-key: {stack.keys['block']}"),
        *("content-type: application/json", framing, "", ""),
    )
    writer.write("\r\n".join(lines).encode())
    answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
    sent = 0
    try:
        while sent < size and not answer.done():
            writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            sent += 65536
            drained = asyncio.ensure_future(writer.drain())
            await asyncio.wait({drained, answer}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0.002)  # a client as fast as ours would be done before anybody
        status, *fields = (await answer).decode().lower().splitlines()
        length = next(int(line[15:]) for line in fields if line.startswith("content-length:"))
        error = json.loads(await reader.readexactly(length))["error"]
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert status.split()[1] == "413"
    if path == MESSAGES:
        assert error["type"] == "request_too_large"
    else:
        assert (error["type"], error["code"]) == ("invalid_request_error", "body_too_large")
    return sent


@DIALECTS
async def test_a_body_that_never_comes_is_refused(stack: Stack, path: str) -> None:
    """408 once the client has had its time."""

    async def endless() -> AsyncIterator[bytes]:
        yield b'{"model":'
        await asyncio.sleep(30)

    async with stack.counting() as counted:
        answer = await stack.post(endless(), path=path, key="block")
    assert_refused(answer, path, status=408, code="body_timeout")
    assert counted.outcomes == {("refused", "chat", "body_timeout"): 1}
    assert counted.faults == {"deadline": 1}
    assert await stack.received_count() == 0


@DIALECTS
async def test_a_body_in_chunks_of_one_byte_is_judged_whole(stack: Stack, path: str) -> None:
    """Cut anywhere, an email is still an email."""
    body = as_json(prompt(path, "mail bob@example.com é"))
    chunks = (body[at : at + 1] for at in range(len(body)))
    answer = await stack.post(_in_chunks(*chunks), path=path, key="redact")
    (received,) = await stack.received()
    assert answer.status == 200
    assert received.body == as_json(prompt(path, "mail [EMAIL_1] é"))


@DIALECTS
async def test_http2_trailers_are_refused_where_the_body_is_judged(
    stack: Stack, path: str
) -> None:
    """And go by where nobody looks at the body."""
    body = as_json(prompt(path))
    async with stack.counting(2) as counted:
        refused = await _with_trailers(stack, path, "block", body)
        passed = await _with_trailers(stack, path, "free", body)
    assert (refused.status, passed.status) == (400, 200)
    assert "trailers" in json.loads(refused.body)["error"]["message"]
    assert counted.outcomes == {
        ("refused", "chat", "request_trailers"): 1,
        ("allowed", "chat", "none"): 1,
    }
    assert [one.body for one in await stack.received()] == [body]


async def _with_trailers(stack: Stack, path: str, key: str, body: bytes) -> Http2Answer:
    return await http2_request(
        int(stack.facts.https_url.rpartition(":")[2]),
        stack.facts.ca_file,
        fields=[
            *((":method", "POST"), (":scheme", "https"), (":path", path)),
            *((":authority", "localhost"), ("x-api-key", stack.keys[key])),
            ("content-type", "application/json"),
        ],
        body=[body[:9], body[9:]],
        trailers=[("x-checksum", "1")],
    )


async def test_models_are_listed_and_a_get_with_a_body_is_not(stack: Stack) -> None:
    """What a provider makes of such a body, nobody knows."""
    headers = stack.credentials(CHAT, "block", ())
    async with stack.counting(2) as counted:
        listed = await stack.request("GET", "/v1/models", headers=headers)
        odd = await stack.request("GET", "/v1/models", data=b"{}", headers=headers)
    assert listed.status == 200
    assert listed.json["data"][0]["object"] == "model"
    assert odd.openai_error == (403, "invalid_request_error", "unscanned_content")
    assert counted.outcomes == {
        ("allowed", "list_models", "none"): 1,
        ("refused", "list_models", "unscanned_content"): 1,
    }
    assert await stack.received_count() == 1


# Guardrails that fail.


@DIALECTS
@pytest.mark.parametrize("on_error", ["block", "allow"])
@pytest.mark.parametrize(
    ("fault", "verdict"), [("hang", "timeout"), ("error", "error"), ("rubbish", "error")]
)
async def test_a_webhook_that_fails_goes_the_way_its_policy_says(
    stack: Stack, path: str, fault: str, verdict: str, *, on_error: str
) -> None:
    """503 or an answer of the model; the verdict says which, and is never a pass."""
    async with stack.counting() as counted:
        answer = await stack.post(prompt(path), path=path, key=f"hook-{fault}-{on_error}")
    if on_error == "block":
        assert_refused(answer, path, status=503, code="guardrail_unavailable")
        assert counted.outcomes == {("failed", "chat", "guardrail_unavailable"): 1}
        assert counted.verdicts == {("hook", f"{verdict}_closed"): 1}
    else:
        assert answer.status == 200
        assert counted.outcomes == {("allowed", "chat", "none"): 1}
        assert counted.verdicts == {("hook", f"{verdict}_open"): 1}
    assert await stack.received_count() == (on_error == "allow")


# Policies with faults.

GOOD_POLICY: Final = """name: fickle
guardrails:
  - {name: words, type: denied_terms, action: block, terms: [heron]}
"""


async def test_a_policy_with_a_typo_is_refused_with_its_place_and_changes_nothing(
    stack: Stack,
) -> None:
    """Line and column are named; what was in force still is."""
    await stack.apply(GOOD_POLICY)
    key = (await stack.new_key("fickle")).reveal()
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "policies.yaml"
        file.write_text(GOOD_POLICY.replace("action: block", "actoin: flag"))
        ran = await asyncio.to_thread(
            Egret(stack.facts.postgres_dsn), "policy", "apply", "-f", str(file), "--yes"
        )
    assert ran.code == 1
    assert f"{file.name}: line 3, column 39: guardrails[0].actoin: unknown field" in ran.err
    answer = await stack.post(chat("a heron"), key=key)
    assert answer.openai_error == (400, "invalid_request_error", "content_blocked")


async def test_a_policy_no_worker_can_read_is_counted_and_the_last_good_one_stays(
    stack: Stack,
) -> None:
    """As when a newer Egret has written it; the next good one comes into force."""
    await stack.apply(GOOD_POLICY)
    key = (await stack.new_key("fickle")).reveal()
    before = await stack.counted()
    settings = PostgresSettings(dsn=SecretStr(stack.facts.postgres_dsn))
    async with connect(settings) as connection:
        stored = await load_policy(connection, "fickle")
        assert stored is not None
        await apply_policy(
            connection, "fickle", document="name: [", expected_version=stored.version
        )
    try:
        await _until(lambda: _has_failed_to_reload(stack, before))
        answer = await stack.post(chat("a heron"), key=key)
    finally:
        await stack.apply(GOOD_POLICY.replace("heron", "stork"))
    assert answer.openai_error == (400, "invalid_request_error", "content_blocked")
    assert (await stack.post(chat("a heron"), key=key)).status == 200
    assert (await stack.post(chat("a stork"), key=key)).status == 400


async def _has_failed_to_reload(stack: Stack, before: Counted) -> bool:
    return ((await stack.counted()) - before).reload_failures >= stack.workers


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; the test's own time limit is the end of patience."""
    while not await holds():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.05)


# No database.


async def test_without_its_database_egret_starts_refuses_and_recovers(stack: Stack) -> None:
    """503 with retry-after in the client's dialect, not 401; then 200 without a restart."""
    address = parse_qs(urlsplit(stack.facts.postgres_dsn).query)
    real = Path(address["host"][0]) / ".s.PGSQL.5432"
    with tempfile.TemporaryDirectory(prefix="egret-pg-") as place:
        settings = {
            "EGRET_POSTGRES__DSN": stack.facts.postgres_dsn.replace(address["host"][0], place)
        }
        async with more_workers(stack, workers=1, settings=settings) as cut_off:
            for path in (CHAT, MESSAGES):
                async with cut_off.counting() as counted:
                    answer = await cut_off.post(prompt(path), path=path, key="block")
                assert_refused(answer, path, status=503, code="authorization_unavailable")
                assert counted.outcomes == {("failed", "chat", "authorization_unavailable"): 1}
                async with cut_off.counting() as counted:
                    malformed = await cut_off.post(prompt(path), path=path, key="egk_x")
                assert malformed.status == 401
                assert counted.outcomes == {("refused", "chat", "invalid_api_key"): 1}
            assert await cut_off.received_count() == 0
            (Path(place) / real.name).symlink_to(real)
            await _until(lambda: _is_served(cut_off))
            assert await cut_off.received_count() == 1


async def _is_served(stack: Stack) -> bool:
    answer = await stack.post(chat("hello"), key="block")
    assert answer.status in {200, 503}
    return answer.status == 200
