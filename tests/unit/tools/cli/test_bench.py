"""`egret bench` without a gateway: what it makes of wrong usage and of headers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from egret_tools.cli.bench import Measured, error_text, percentile, timings, turn_rows
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.support.command_line import Egret

NOWHERE = Egret("postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("authorize;dur=0.2, egret;dur=1.25", {"authorize": 0.2, "egret": 1.25}),
        ('cache;desc="hit", upstream;dur=30', {"upstream": 30.0}),
        ("egret;dur=1.2.3, upstream;dur=", {}),
        ("", {}),
    ],
)
def test_durations_are_read_and_nothing_else(value: str, found: dict[str, float]) -> None:
    """A provider may write what it likes into the same header."""
    assert dict(timings(value)) == found


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 100))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(
    values: list[float], percent: int
) -> None:
    """The smallest of them."""
    found = percentile(values, percent)
    assert 100 * sum(one <= found for one in values) >= percent * len(values)
    assert found == min(values) or 100 * sum(one < found for one in values) < percent * len(values)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("ftp://gateway",), "is no URL of a gateway"),
        (
            ("https://gateway", "--key", "k", "--body", "none.json"),
            "none.json: No such file or directory",
        ),
        (
            ("https://gateway", "--key", "k", "--ca-file", "none.pem"),
            "none.pem: No such file or directory",
        ),
        (("https://gateway", "--key", ""), "no API key is known; give --key or EGRET_KEY"),
        (
            ("https://gateway", "--key", "k\n"),
            "--key has a line end or another control character; remove it",
        ),
        (("--run", "nowhere"), "nowhere/egret.json: No such file or directory"),
        (
            ("https://gateway", "--key", "k", "--conversation", "--size", "64 KB"),
            "64 KB is no size; write for example 64k or 1m",
        ),
        (
            ("https://gateway", "--key", "k", "--conversation", "--size", "1k"),
            "1024 bytes have no room for 40 messages; ask for a longer --size",
        ),
        (
            ("https://gateway", "--key", "k", "--conversation", "--body", "body.json"),
            "--body is not sent with --conversation; leave one out",
        ),
        (
            ("https://gateway", "--key", "k", "--conversation", "-n", "5", "--turns", "10"),
            "a conversation has 10 requests, and --requests is 5; raise --requests or lower",
        ),
    ],
    ids=[
        "scheme",
        "no body",
        "no certificates",
        "no key",
        "line end in the key",
        "no stack",
        "size",
        "small size",
        "two bodies",
        "less than a conversation",
    ],
)
def test_wrong_usage_is_said_in_a_line_before_anything_is_sent(
    words: tuple[str, ...], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do."""
    monkeypatch.chdir(tmp_path)

    ran = NOWHERE("bench", *words)

    assert ran.code == 2
    assert problem in ran.err


def test_a_gateway_that_is_not_there_loses_all_and_says_of_what_kind() -> None:
    """Nothing is retried."""
    ran = NOWHERE("bench", "http://127.0.0.1:1", "--key", "k", "--requests", "3")

    assert ran.code == 1
    assert "no answer, 3 lost (ClientConnectorError)" in ran.err


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://127.0.0.1:1", "nothing listens there: check host and port"),
        ("http://gateway.invalid", "the host is unknown: check its name"),
    ],
)
def test_requests_without_an_answer_have_a_hint(url: str, hint: str) -> None:
    """By the kind of failure."""
    ran = NOWHERE("bench", url, "--key", "k", "--requests", "2")

    assert ran.code == 1
    assert hint in ran.err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"error": {"message": "The key\\n is unknown."}}', "The key is unknown."),
        (b'{"type": "error", "error": {"message": "Blocked."}}', "Blocked."),
        (b'{"message": "Blocked."}', "Blocked."),
        (b'{"error": "Blocked."}', "Blocked."),
        (b'{"error": {"message": "No key egk_1 here"}}', "No key … here"),
        (b"no healthy upstream", "no healthy upstream"),
        (b"[1]", "[1]"),
        (b"\xff" + b"x" * 400, "\ufffd" + "x" * 299 + "…"),
        (b"", ""),
    ],
)
def test_the_message_of_an_error_is_found_in_every_form_without_the_key(
    content: bytes, text: str
) -> None:
    """In one line, cut to a length."""
    assert error_text(content, key=SecretStr("egk_1")) == text


async def test_the_first_error_is_kept_of_all_that_a_server_answers() -> None:
    """The body may arrive in several pieces."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=401)
        await answer.prepare(request)
        for piece in (b'{"error": {"message":', b' "The key is unknown."}}'):
            await answer.write(piece)
            await asyncio.sleep(0.01)
        return answer

    app = web.Application()
    app.router.add_post("/v1/x", refuse)
    async with TestServer(app) as server:
        url = str(server.make_url("/")).rstrip("/")
        words = ("bench", url, "--key", "egk_wrong", "-n", "3", "--path", "v1/x")
        ran = await asyncio.to_thread(NOWHERE, *words)

    assert ran.code == 1
    assert "3 with status 401;" in ran.err
    assert ran.err.endswith("the first error says: The key is unknown.\n")


def test_a_turn_has_its_medians_and_its_requests_without_success() -> None:
    """A turn of which none succeeded has no times."""
    first, then = Measured(), Measured()
    first.statuses.update({200: 2, 429: 1})
    for milliseconds in (3.0, 5.0):
        first.note("whole answer", milliseconds)
        first.note("egret", milliseconds / 2)
    then.lost["ClientConnectorError"] = 3

    rows = turn_rows([first, then])

    assert rows[0] == {
        "turn": 1, "requests": 3, "refused": 1, "lost": 0,
        "p50_ms": 3.0, "egret_p50_ms": 1.5, "guardrails_p50_ms": None,
    }  # fmt: skip
    assert [rows[1][name] for name in ("requests", "refused", "lost", "p50_ms")] == [3, 0, 3, None]
    assert (first.has_failures, then.has_failures, Measured().has_failures) == (True, True, False)


@pytest.mark.parametrize("facts", ["", "[]", '{"url": "http://127.0.0.1:1"}'])
def test_a_damaged_file_of_a_stack_is_said_with_the_hint(tmp_path: Path, facts: str) -> None:
    """An empty one too, as a disk that was full may leave it."""
    (tmp_path / "egret.json").write_text(facts)

    ran = NOWHERE("bench", "--run", str(tmp_path))

    problem = (
        f"error: {tmp_path}/egret.json: not written by `egret up` of this version; name a gateway"
    )
    assert (ran.code, ran.err) == (2, f"{problem}, or start `egret up`\n")
