from __future__ import annotations

import asyncio
import dataclasses
import io
import os
import shlex
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from egret_tools.cli.up_session import (
    PortChoice,
    client_lines,
    command_lines,
    curl_line,
    read_upstream,
    show_error,
    tls_curl_line,
    until_signal,
)
from egret_tools.devstack.processes import PartError, free_port
from egret_tools.devstack.stack import StackFacts
from pydantic import SecretStr
from rich.console import Console

FACTS = StackFacts(
    url="http://127.0.0.1:1",
    https_url="https://localhost:2",
    ca_file=Path("run of mine/ca.pem"),
    admin_url="http://127.0.0.1:3",
    metrics_url="http://127.0.0.1:4/metrics",
    console_url="http://127.0.0.1:6",
    mock_debug_url=None,
    key=SecretStr("egk_made_up"),
    pid=5,
    workers_pid=6,
    postgres_dsn="postgresql://egret@/egret",
    valkey_url="unix:///valkey.sock",
    traces_file=None,
    access_log=Path("access.jsonl"),
    logs=Path("logs"),
)


def test_the_lines_to_copy_survive_a_shell() -> None:
    """Blanks in a path and quotes in JSON are quoted."""
    plain, over_tls = shlex.split(curl_line(FACTS)), shlex.split(tls_curl_line(FACTS))
    assert plain[:3] == ["curl", "-i", "http://127.0.0.1:1/v1/chat/completions"]
    assert "authorization: Bearer egk_made_up" in plain
    assert over_tls[2:4] == ["--cacert", "run of mine/ca.pem"]


def test_the_lines_that_point_the_command_line_at_the_stack_survive_a_shell(
    tmp_path: Path,
) -> None:
    """A blank or a `?` in a path is quoted."""
    facts = dataclasses.replace(FACTS, postgres_dsn="postgresql://egret@/egret?host=a b")

    assert shlex.split(command_lines(facts, prefix=tmp_path)) == [
        *("export", "EGRET_POSTGRES__DSN=postgresql://egret@/egret?host=a b"),
        *("export", "EGRET_VALKEY__URL=unix:///valkey.sock"),
        *("egret", "keys", "list"),
    ]


@pytest.mark.parametrize(
    ("file", "place", "line"),
    [
        ("activate", "my venv", "source 'my venv/bin/activate'"),
        ("activate", "", "source bin/activate"),
        ("egret", "opt", "export PATH=BIN:$PATH"),
    ],
)
def test_the_lines_make_egret_a_command_first(
    file: str, place: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the environment that it runs in, whether or not that one can be activated."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / place / "bin"
    folder.mkdir(parents=True)
    (folder / file).touch()

    first = command_lines(FACTS, prefix=tmp_path / place).splitlines()[0]

    assert first == line.replace("BIN", str(folder))


def test_client_libraries_need_two_variables() -> None:
    """The base URL with its version, and the key."""
    assert client_lines(FACTS).splitlines() == [
        "export OPENAI_BASE_URL=http://127.0.0.1:1/v1",
        "export OPENAI_API_KEY=egk_made_up",
    ]


def test_the_facts_are_plain_json_and_hide_the_key_elsewhere() -> None:
    """Only the file, which is its owner's alone, shows it."""
    facts = FACTS.as_json()
    assert (facts["key"], facts["mock_debug_url"], facts["logs"]) == ("egk_made_up", None, "logs")
    assert "egk_made_up" not in repr(FACTS)


def test_an_error_names_the_part_the_reason_and_the_hint() -> None:
    """In that order, and not as markup: a log may hold brackets."""
    console = Console(file=io.StringIO(), width=200)
    show_error(console, PartError("Envoy", "port 1 is in use [bold]", hint="stop what listens"))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().split("\n")
    assert shown[1:4] == ["✗ Envoy", "  port 1 is in use [bold]", "  → stop what listens"]


def test_an_upstream_is_read_with_its_keys_and_authority(tmp_path: Path) -> None:
    """An empty key is none."""
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    upstream = read_upstream("https://llm.example", ca_file=authority, keys=("sk", ""))
    assert upstream is not None
    assert (upstream.host, upstream.port, upstream.ca_file) == ("llm.example", 443, authority)
    assert upstream.credentials.openai is not None
    assert upstream.credentials.anthropic is None
    assert "sk" not in repr(upstream.credentials).replace("SecretStr", "")


@pytest.mark.parametrize("keys", [("egk_x", None), ("sk", "egk_x")])
def test_no_upstream_receives_a_key_of_egret(keys: tuple[str, str | None]) -> None:
    """`egret up` prints `export OPENAI_API_KEY=egk_…`, and reads the provider's key there."""
    with pytest.raises(ValueError, match="OPENAI_API_KEY or ANTHROPIC_API_KEY") as caught:
        read_upstream("https://llm.example", ca_file=None, keys=keys)
    assert "egk_x" not in str(caught.value)


def test_no_upstream_means_the_mock() -> None:
    """The make target passes nothing when UPSTREAM is empty."""
    assert read_upstream(None, ca_file=None, keys=(None, None)) is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_the_work_in_order(number: signal.Signals, code: int) -> None:
    """Blocks are left inside out, and the exit code is that of a shell."""
    steps: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            steps.append("stopped")

    assert await until_signal(work) == code
    assert steps == ["stopped"]


async def test_work_that_ends_on_a_signal_as_usual_has_no_exit_code_of_its_own() -> None:
    """As `egret up` once all is ready."""

    async def work() -> None:
        with suppress(asyncio.CancelledError):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

    assert await until_signal(work) == 0


async def test_an_error_is_not_taken_for_a_signal() -> None:
    """It reaches whoever words it."""

    async def work() -> None:
        raise PartError("Valkey", "gone", hint="look")

    with pytest.raises(PartError, match="Valkey: gone"):
        await until_signal(work)


def test_a_default_port_that_is_taken_is_replaced_by_a_free_one_and_that_is_said() -> None:
    """A port that was asked for is kept, so that starting fails if it is taken; 0 is any."""
    said: list[str] = []
    ports = PortChoice(said.append)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        default = taken.getsockname()[1]
        other = ports.choose(None, default=default)
        asked = ports.choose(default, default=1)
        anything = ports.choose(0, default=default)
    free_again = ports.choose(None, default=default)
    ports.close()

    assert said == [f"Port {default} is in use; {other} is used instead."]
    assert (asked, free_again) == (default, default)
    assert default not in {other, anything}


def test_two_runs_that_start_together_do_not_choose_the_same_port() -> None:
    """Neither listens yet; a run that has ended lets the next have it."""
    default = free_port()
    first, second, third = (PortChoice(lambda _: None) for _ in range(3))
    chosen = [first.choose(None, default=default), second.choose(None, default=default)]
    first.close()
    chosen.append(third.choose(None, default=default))
    third.close()

    assert chosen[0] == chosen[2] == default
    assert chosen[1] != default
