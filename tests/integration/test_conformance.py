"""The conformance suite against servers of all kinds: it passes the good and names the bad."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from egret_tools.cli.conformance_session import choose
from egret_tools.conformance.diagnosis import diagnosis
from egret_tools.conformance.modes import MODES
from egret_tools.conformance.suite import Options, results_of
from egret_tools.conformance.target import UnixTarget

from sidecar._generated.envoy.service.ext_proc.v3 import external_processor_pb2 as ext
from sidecar._generated.envoy.type.v3 import http_status_pb2
from sidecar.settings.sections import inherited_environment
from tests.support.scripted_processor import Script, ScriptedProcessor, Side, scripted_processor

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

CASE = "a body with a length"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def processor() -> AsyncIterator[ScriptedProcessor]:
    """A server that does as each test says."""
    with tempfile.TemporaryDirectory(prefix="egret-cs-") as place:
        async with scripted_processor(Path(place) / "server.sock") as running:
            yield running


Change = Callable[[ext.ProcessingResponse], None]


def let_pass(change: Change | None = None) -> ext.ProcessingResponse:
    """Return the answer to request headers that lets them pass."""
    response = ext.ProcessingResponse()
    response.request_headers.SetInParent()
    if change is not None:
        change(response)
    return response


async def good(side: Side) -> None:
    await side.read()
    await side.write(let_pass())


async def says_nothing(side: Side) -> None:
    await side.read()


async def fails(side: Side) -> None:
    await side.read()
    await side.abort()


async def stays(side: Side) -> None:
    await side.read()
    await side.write(let_pass())
    await asyncio.sleep(10)


async def answers_what_was_not_asked(side: Side) -> None:
    await side.read()
    response = ext.ProcessingResponse()
    response.response_headers.SetInParent()
    await side.write(response)


async def lengthens_the_body(side: Side) -> None:
    """Keep the length that was told: the rest is read as the next request of the connection."""
    await side.read()
    override = ext.ProcessingResponse()
    override.mode_override.request_body_mode = override.mode_override.FULL_DUPLEX_STREAMED
    override.mode_override.request_trailer_mode = override.mode_override.SEND
    override.mode_override.response_header_mode = override.mode_override.SKIP
    await side.write(override)
    await side.read()
    await side.write(let_pass())
    response = ext.ProcessingResponse()
    streamed = response.request_body.response.body_mutation.streamed_response
    streamed.body, streamed.end_of_stream = b"x" * 200, True
    await side.write(response)


async def sets_a_header_it_may_not(side: Side) -> None:
    def change(response: ext.ProcessingResponse) -> None:
        option = response.request_headers.response.header_mutation.set_headers.add()
        option.header.key, option.header.raw_value = ":method", b"GET"

    await side.read()
    await side.write(let_pass(change))


async def differences(processor: ScriptedProcessor, script: Script) -> list[str]:
    """Return what differs where the headers are asked about, over HTTP/1.1."""
    processor.script = script
    runs = choose(files=(), modes=("headers",), names=(CASE,), with_egret=False)[:1]
    options = Options(target=UnixTarget(processor.socket), path="/v1/anything")
    return [line async for result in results_of(runs, options) for line in result.differences]


async def test_a_server_that_lets_headers_pass_conforms(processor: ScriptedProcessor) -> None:
    """One of a few lines, that is no Egret."""
    assert await differences(processor, good) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (says_nothing, "counters: stream_msgs_received is 0, not at least 1"),
        (fails, "answer: status 500 instead of 200"),
        (stays, "counters: 1 streams were left open"),
        (answers_what_was_not_asked, "counters: spurious_msgs_received is 1, not 0"),
        (lengthens_the_body, "upstream: 1 times what followed a request was none"),
        (sets_a_header_it_may_not, "counters: rejected_header_mutations is 1, not 0"),
    ],
)
async def test_what_a_server_does_wrong_is_named(
    processor: ScriptedProcessor, script: Script, said: str
) -> None:
    """A bypass, a failure, a leak, a smuggled rest: none of them looks like a pass."""
    assert said in await differences(processor, script)


async def test_the_command_prints_what_differed_and_exits_1(processor: ScriptedProcessor) -> None:
    """For programs, a line a run; exit code 2 where the command itself is wrong."""
    processor.script = says_nothing

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sidecar", "conformance", *arguments],
            capture_output=True, text=True, check=False, timeout=50, env=inherited_environment(),
        )  # fmt: skip

    target = ("--target", f"unix:{processor.socket}")
    asked = (*target, "--case", CASE, "--mode", "headers", "--output", "json")
    done = await asyncio.to_thread(run, *asked)
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert [(row["case"], row["mode"], row["protocol"], row["conforms"]) for row in rows] == [
        (CASE, "headers", "http1", False),
        (CASE, "headers", "http2", False),
    ]
    assert "counters: stream_msgs_received is 0, not at least 1" in rows[0]["differs"]
    assert "0 conform, 2 differ" in done.stderr

    processor.script = good
    done = await asyncio.to_thread(run, *asked[:-2])
    assert done.returncode == 0
    assert "2 conform, 0 differ" in done.stderr

    done = await asyncio.to_thread(run, *asked[:-2], "--output", "junit")
    assert done.returncode == 0
    assert '<testsuite name="headers" tests="2" failures="0"' in done.stdout
    assert "mode headers: 0 of 2 runs done" in done.stderr

    done = await asyncio.to_thread(run, "--target", "unix:missing.sock")
    assert done.returncode == 1
    assert "start the server first" in done.stderr

    done = await asyncio.to_thread(run, "--target", "nowhere")
    assert done.returncode == 2
    assert "neither unix:PATH nor host:port" in done.stderr


async def empty(side: Side) -> None:
    """Answer headers, and everything else with a message in which nothing is set."""
    await side.read()
    await side.write(let_pass())
    while await side.read() is not None:
        await side.write(ext.ProcessingResponse())


async def closes(side: Side) -> None:
    await side.read()


async def refuses(side: Side) -> None:
    await side.read()
    response = ext.ProcessingResponse()
    response.immediate_response.status.code = http_status_pb2.StatusCode.Value("Forbidden")
    await side.write(response)


async def waits(side: Side) -> None:
    await side.read()
    await asyncio.sleep(10)


ANSWERED_BODY = "your server answered `request_body`"
CREDENTIAL = "so check the credential in --key or -H"
NOTHING_SET = "no member of `response` is set"


@pytest.mark.parametrize(
    ("script", "mode", "said"),
    [
        (good, "headers", None),
        (empty, "buffered", f"{ANSWERED_BODY} with an empty message: {NOTHING_SET}"),
        (closes, "headers", "your server ended the stream without an answer to `request_headers`"),
        (fails, "headers", "your server ended the stream with INTERNAL"),
        (refuses, "duplex",
         f"your server refused an ordinary request with 403, {CREDENTIAL}"),
        (answers_what_was_not_asked, "headers",
         "your server answered `request_headers` with `response_headers`"),
    ],
)  # fmt: skip
async def test_the_cause_of_a_mode_that_is_not_served_is_named(
    processor: ScriptedProcessor, script: Script, mode: str, said: str | None
) -> None:
    """By the messages themselves, which Envoy's counters do not show."""
    processor.script = script
    target = UnixTarget(processor.socket)
    assert await diagnosis(target, MODES[mode], path="/v1/anything", headers=()) == said


async def test_a_server_that_does_not_answer_is_named(
    processor: ScriptedProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while."""
    monkeypatch.setattr("egret_tools.conformance.diagnosis.ANSWER_SECONDS", 0.2)
    processor.script = waits
    said = await diagnosis(UnixTarget(processor.socket), MODES["headers"], path="/", headers=())
    assert said == "your server did not answer `request_headers` within 0.2 s"
