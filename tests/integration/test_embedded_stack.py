"""`egret up` and `egret demo` as a person starts them: whole processes, from start to end."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from egret_tools.devstack.processes import free_port
from egret_tools.devstack.run_directory import KEPT_AFTER_A_FAILURE

from tests.support.embedded import CHAT, egret, none_left, started

pytestmark = [pytest.mark.stack, pytest.mark.long]


def is_gone(run: Path) -> bool:
    """Whether nothing is left where the run directory was, nor beside it."""
    return list(run.parent.iterdir()) == []


def left_in(run: Path) -> set[str]:
    """Return what is left of the run directory, but for its lock."""
    return {entry.name for entry in run.iterdir() if not entry.name.startswith(".")}


@pytest.fixture
def run() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="egret-") as parent:
        yield Path(parent) / "run"


async def test_a_stack_answers_over_tls_and_leaves_only_its_data(run: Path) -> None:
    """With the key from egret.json; after SIGTERM no process is left, and nothing but data."""
    async with started(run) as up:
        mode = stat.S_IMODE((run / "egret.json").stat().st_mode)
        tls = ssl.create_default_context(cafile=up.facts["ca_file"])
        headers = {"authorization": f"Bearer {up.facts['key']}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            url = f"{up.facts['https_url']}/v1/chat/completions"
            async with client.post(url, json=CHAT, ssl=tls) as answer:
                status, timing = answer.status, answer.headers["server-timing"]
            async with client.get(f"{up.facts['mock_debug_url']}/last") as answer:
                assert answer.status == 200
            async with client.get(up.facts["metrics_url"]) as answer:
                assert 'egret_build_info{engine="http2"' in await answer.text()
            async with client.get(f"{up.facts['console_url']}/login") as answer:
                assert "Sign in to Egret" in await answer.text()
        assert (status, mode, up.facts["pid"]) == (200, 0o600, up.process.pid)
        assert "egret;dur=" in timing
        assert "upstream;dur=" in timing
        up.process.send_signal(signal.SIGTERM)
        code, printed = await up.ended()
        assert await none_left(up)
    assert code == 0, printed
    assert left_in(run) == {"data"}
    assert list(run.parent.iterdir()) == [run]


async def test_a_part_that_keeps_dying_ends_the_stack_and_its_logs_stay(run: Path) -> None:
    """Exit code 1; the message says which part, how it died, and where the logs are."""
    async with started(run) as up:
        # A configuration that Envoy refuses: it dies at each restart.
        (run / "envoy.yaml").write_text("no: configuration\n")
        up.kill("envoy")
        code, printed = await asyncio.wait_for(up.ended(), 150)
        assert await none_left(up)
    assert code == 1
    assert "✗ Envoy" in printed
    assert "exited 1" in printed
    assert str(run / "logs") in printed
    assert left_in(run) == {"data", *KEPT_AFTER_A_FAILURE}
    assert "no such field" in (run / "logs" / "envoy.log").read_text()


@pytest.mark.timeout(420)
async def test_the_next_start_has_the_same_key_and_address_unless_it_is_a_fresh_one(
    run: Path,
) -> None:
    """Also after SIGKILL, and with what was set up meanwhile."""
    port = ("--port", str(free_port()))
    async with started(run, *port) as first:
        team = await first.command("teams", "create", "search", "--org", "demo")
        first.process.kill()
        await first.ended()
        assert await none_left(first)
    (run / "egret.json").unlink()
    async with started(run, *port) as second:
        teams = await second.command("teams", "list")
        status = await second.status()
    async with started(run, *port, "--fresh") as third:
        pass

    assert (team.code, teams.code, status) == (0, 0, 200)
    assert "demo/search" in teams.printed
    assert [second.facts[name] for name in ("key", "url")] == [
        first.facts[name] for name in ("key", "url")
    ]
    assert third.facts["key"] != first.facts["key"]


async def test_a_killed_stack_takes_its_parts_along_and_the_next_one_clears_up(run: Path) -> None:
    """SIGKILL leaves no time to stop anything, and a stale directory."""
    async with started(run) as up:
        up.process.kill()
        await up.ended()
        assert await none_left(up)
    assert (run / "egret.json").exists()
    (run / "egret.json").unlink()
    async with started(run, "--timing", "mutation", "--no-traces") as up:
        headers = {"authorization": f"Bearer {up.facts['key']}"}
        async with (
            aiohttp.ClientSession(up.facts["url"], headers=headers) as client,
            client.post("/v1/chat/completions", json=CHAT) as answer,
        ):
            assert answer.status == 200
            assert "egret;dur=" in answer.headers["server-timing"]
        second = await egret("up", "--run-directory", str(run))
        refused, _ = await second.communicate()
    assert second.returncode == 1
    assert f"pid {up.process.pid}" in refused.decode().replace("\n", " ")


async def test_the_tour_comes_out_as_expected() -> None:
    """Every case of the table, as programs read it."""
    process = await egret("demo", "--output", "json")
    assert process.stdout is not None
    printed, _ = await process.communicate()
    rows = json.loads(printed.splitlines()[-1])
    assert [row["faults"] for row in rows] == [[]] * 7
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["demo", "up"])
async def test_a_start_that_is_interrupted_ends_with_130(run: Path, command: str) -> None:
    """Without a table of cases that were not run."""
    options = ["--run-directory", str(run), "--port", "0"] if command == "up" else []
    process = await egret(command, *options)
    assert process.stdout is not None
    await process.stdout.readuntil("✓".encode())  # the first part is there, the others are not
    process.send_signal(signal.SIGINT)
    printed = (await process.stdout.read()).decode()

    assert (await process.wait(), "Verdict" in printed) == (130, False)
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(("--upstream", "http://llm.example"), "https", id="upstream without TLS"),
        pytest.param(
            ("--upstream", "https://llm.example", "--upstream-ca", "missing.pem"),
            "Invalid value for '--upstream-ca'",
            id="CA file that is not there",
        ),
        pytest.param(
            ("--upstream-ca", __file__), "--upstream-ca: it needs --upstream", id="CA file alone"
        ),
        pytest.param(("--workers", "0"), "workers", id="no workers"),
    ],
)
async def test_wrong_usage_is_told_before_anything_starts(
    run: Path, arguments: tuple[str, ...], reason: str
) -> None:
    """Exit code 2."""
    process = await egret("up", "--run-directory", str(run), *arguments)
    printed, _ = await process.communicate()
    assert process.returncode == 2
    assert reason in printed.decode()
    assert is_gone(run)
