from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from pydantic import SecretStr

from loadtest.generators import put_closed_loop, read_log
from loadtest.load import Load, LoadError, Target
from tests.support.web_app import served


def log(*rows: tuple[int, int]) -> list[str]:
    """Return lines of a status and microseconds each."""
    return [f"1764100000000000\t{status}\t{taken}\n" for status, taken in rows]


def test_every_request_counts_and_what_failed_is_told_apart() -> None:
    """Refusals and requests without an answer are errors; percentiles are by the nearest rank."""
    rows = [(200, taken * 1000) for taken in range(100, 0, -1)]
    seen = read_log(log(*rows, (503, 200_000), (-1, 201_000)), seconds=4)

    assert (seen.requests, seen.errors, seen.dropped) == (102, 2, 0)
    assert (seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.max_ms) == (51, 97, 200, 201)
    assert (seen.rps, seen.quantiles_ms[1], seen.quantiles_ms[99.9]) == (25, 2, 201)


def test_a_loop_that_made_no_request_measured_nothing() -> None:
    """Rather than a rate of zero."""
    with pytest.raises(LoadError, match="no request"):
        read_log([], seconds=1)


async def test_the_key_and_the_body_are_sent_by_as_many_connections_as_told(
    tmp_path: Path,
) -> None:
    """Over HTTP/1.1 to an address without TLS."""
    asked: set[tuple[str, bytes, object]] = set()
    peers: set[object] = set()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        credential = request.headers["authorization"]
        asked.add((credential, await request.read(), request.version))
        return web.Response(status=200 if request.headers["x-more"] == "yes" else 400)

    application = web.Application()
    application.router.add_post("/v1/chat/completions", answer)
    body = tmp_path / "body.json"
    body.write_bytes(b"{}")
    async with served(application) as port:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        target = Target(url, SecretStr("egk_of_nobody"), body, headers={"x-more": "yes"})
        seen = await put_closed_loop(Load("c3", 3), target=target, seconds=0.5, scratch=tmp_path)

    assert (seen.errors, len(peers)) == (0, 3)
    assert asked == {("Bearer egk_of_nobody", b"{}", (1, 1))}
