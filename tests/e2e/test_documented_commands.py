"""Commands that pages name run: on the shared stack, and on a database with all that they name."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import psutil
import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner

from sidecar.cli.main import command_tree
from sidecar.settings.sections import inherited_environment
from tests.support.documented_commands import (
    DOCS,
    PAGES,
    ROOT,
    documented,
    here_documents,
    of_egret,
)
from tests.support.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.long]
on_stack = pytest.mark.asyncio(loop_scope="session")

Words = tuple[str, ...]

COMMANDS: Final = sorted(
    {words for page in PAGES for one in documented(page) if (words := of_egret(one)) is not None}
)
ELSEWHERE: Final[dict[Words, str]] = {
    ("up",): "starts a stack of its own: tests/integration/test_embedded_stack.py",
    ("demo",): "starts a stack of its own: tests/integration/test_embedded_stack.py",
    ("serve",): "starts workers: tests/integration/test_serve.py",
    ("alerts", "run"): "runs until it is stopped: tests/integration/test_cli_alerts.py",
    ("alerts", "test"): "needs `egret alerts run`: tests/integration/test_cli_alerts.py",
    ("admin", "revoke-token"): "needs a token: tests/integration/test_cli_admin.py",
    ("--server",): "an example: tests/integration/test_cli_admin_server.py",
    ("conformance",): "takes a minute: tests/e2e/test_conformance.py",
    ("--install-completion",): "writes to a shell's start-up files: tests/unit/cli/test_main.py",
    ("bench", "https://llm.example.com"): "an example: there is no such gateway",
    ("doctor", "--through"): "an example, and needs a key: tests/e2e/test_doctor_through.py",
    ("top", "--metrics"): "an example: there is no such address",
}
"""Commands, by their first words, that do not run here, each with the reason."""
PARTS: Final[frozenset[Words]] = frozenset(
    {
        ("--as", "NAME"),
        ("apply",),
        ("apply", "--no-wait"),
        ("apply", "--secrets", "FOLDER"),
        ("diff",),
        ("diff", "--metrics-file"),
        ("guardrails", "test", "--answer"),
        ("keys", "rotate", "--grace"),
        ("limits", "list"),
        ("limits", "remove"),
        ("limits", "remove", "--all"),
        ("limits", "set", "--burst"),
        ("limits", "set", "--key", "KEY_ID"),
        ("limits", "show"),
        ("lint",),
        ("lint", "--allow-unchecked"),
        ("lint", "--envoy", "1.38"),
        ("logs", "--request-id"),
        ("policy", "apply", "--dry-run"),
        ("policy", "apply", "--no-wait"),
        ("policy", "diff"),
        ("policy", "lint", "--file"),
        ("usage", "report", "--chart"),
    }
)
"""Parts of commands, named in a sentence about an option."""
ASKS: Final = {
    *(("policy", one) for one in ("apply", "demote", "promote", "rollback")),
    ("orgs", "delete"),
    ("teams", "delete"),
    ("apply", "-f"),
}
"""Commands that ask on a terminal, and refuse without one and without `--yes`."""
BEFORE: Final[dict[Words, tuple[Words, ...]]] = {
    ("orgs", "create"): (),
    ("teams", "create"): (("orgs", "create", "acme"),),
    ("keys", "import"): (),
}
"""Commands that begin with an empty database, and those that come before them."""
REPORTS: Final = {("lint", "envoy.yaml", "--envoy", "1.38"), ("policy", "lint")}
"""Commands that exit with 1 here, since there is something to report."""
EMPTY, FULL = "documented_empty", "documented_full"
EXPORTED: Final = "exported.jsonl"
STILL: Final = 20
"""So many looks in a row, a tenth of a second apart, at a process that sleeps and needs no CPU."""

POLICY: Final = """\
name: finance
unscanned: block
guardrails:
  - {{name: secrets, type: secrets, action: block}}
  - {{name: pii, type: pii, action: redact, regions: [{region}]}}
  - {{name: dlp, type: webhook, url: "https://dlp.example/check", mode: shadow}}
"""
ANSWERS: Final = """\
name: answers
unscanned: block
guardrails:
  - name: order
    type: json_schema
    schema: {type: object, properties: {sku: {type: integer}}, additionalProperties: false}
"""
CHAT: Final = {
    "model": "claude-mock",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "hello"}],
}
LITELLM: Final = {
    "gpt-4o": {
        "litellm_provider": "openai",
        "input_cost_per_token": 2.5e-06,
        "output_cost_per_token": 1e-05,
    }
}
PRICES: Final = "model,input,output,cached_input,cache_write,valid_from\ngpt-4o,2.5,10,1.25,,\n"


def _is_mention(words: Words) -> bool:
    """Return whether *words* only name a group, or a command that needs arguments."""
    command: Any = typer.main.get_command(command_tree(words))
    for word in words:
        if word not in getattr(command, "commands", ()):
            return False
        command = command.commands[word]
    return hasattr(command, "commands") or any(option.required for option in command.params)


def _follows(words: Words) -> bool:
    """Return whether the command goes on until Ctrl-C."""
    return "follow" in words or "--follow" in words


HERE: Final = [
    words
    for words in COMMANDS
    if words not in PARTS
    and not any(words[: len(first)] == first for first in ELSEWHERE)
    and not _is_mention(words)
]
RUN: Final = [words for words in HERE if not _follows(words)]
FOLLOWING: Final = [words for words in HERE if _follows(words)]


@dataclass(frozen=True)
class World:
    """The stack, and a folder with the files that pages name; databases are beside Egret's own."""

    stack: Stack
    folder: Path
    numbers: Iterator[int]

    def dsn(self, database: str) -> str:
        """Return the DSN of a database of the stack's server."""
        return self.stack.facts.postgres_dsn.replace("/egret?", f"/{database}?")

    async def create(self, name: str, template: str = "template0") -> str:
        """Make a database, and return its DSN."""
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.dsn(name)

    @asynccontextmanager
    async def copy(self, template: str) -> AsyncIterator[str]:
        """Make a copy of a database, yield its DSN, and drop it."""
        name = f"documented_{next(self.numbers)}"
        yield await self.create(name, template)
        await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def typed(self, dsn: str, words: Words) -> Words:
        """Replace the placeholders of a page by values that the database has."""
        asked = ("--yes",) if words[:2] in ASKS and not {"--yes", "--dry-run"} & {*words} else ()
        listed = await self.run(dsn, "keys", "list", "--output", "json")
        places = {"NAME": "finance", "GUARDRAIL": "pii"}
        for key in orjson.loads(listed.stdout):
            places |= {"KEY_ID": key["key_id"], "5OKO8h6jGWNP": key["key_id"]}
        return (*(places.get(word, word) for word in words), *asked)

    def stdin(self, words: Words) -> str | None:
        """Return what a pipe or a redirection passes to the command."""
        if words[:2] == ("envoy", "render"):
            return (self.folder / "parameters.yaml").read_text()
        if words[:1] == ("lint",):
            return (self.folder / "dump.json").read_text()
        return (self.folder / "run/logs/workers.log").read_text() if words[0] == "logs" else None

    def environment(self, dsn: str) -> dict[str, str]:
        """Return the variables that `egret up` prints, and those of its workers."""
        return {
            "EGRET_POSTGRES__DSN": dsn,
            "EGRET_POSTGRES__ACQUIRE_SECONDS": "20",
            "EGRET_VALKEY__URL": self.stack.facts.valkey_url,
            "EGRET_SERVER__SOCKET_DIRECTORY": str(self.folder / "run/sockets"),
        }

    async def run(
        self, dsn: str, *words: str, stdin: str | None = None
    ) -> Any:  # Typer's own class is private
        """Run one command in this process and in the folder."""
        return await asyncio.to_thread(
            CliRunner().invoke, command_tree(words), words, input=stdin, env=self.environment(dsn)
        )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(
    session_stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Make both databases and all files, by the command line itself where it can."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("documented")
        patch.chdir(folder)
        world = World(session_stack, folder, itertools.count())
        await _write_files(world)
        bare, full = await world.create(EMPTY), await world.create(FULL)
        for dsn in (bare, full):
            await _succeed(world, dsn, "migrate")
        for words in (
            ("orgs", "create", "acme"),
            ("teams", "create", "search", "--org", "acme"),
            ("keys", "create", "--team", "acme/search", "--name", "ci", "--tag", "env=prod"),
            ("limits", "set", "--team", "acme/search", "concurrent=5"),
            ("limits", "set", "--org", "acme", "cost/month=100"),
            ("price", "set", "gpt-4o", "--input", "1", "--output-tokens", "2"),
        ):
            await _succeed(world, full, *words)
        policies = folder / "versions.yaml"
        for region in ("US", "DE", "FR", "GB", "IT"):
            policies.write_text(f"{POLICY.format(region=region)}---\nname: strict\n")
            await _succeed(world, full, "policy", "apply", "-f", str(policies), "--yes")
        by_policy = ROOT / "examples" / "providers-by-policy" / "policies.yaml"
        for file in ("projects.yaml", "litellm-policy.yaml", str(by_policy)):
            await _succeed(world, full, "policy", "apply", "-f", file, "--yes")
        await _succeed(world, full, "keys", "export", str(folder / EXPORTED))
        await _succeed(world, full, "export", "-o", str(folder / "config"))
        yield world


async def _write_files(world: World) -> None:
    """Write the files that pages name, by the pages' own text where they have it."""
    folder, facts = world.folder, world.stack.facts
    (folder / "run").symlink_to(world.stack.run.path)
    (folder / "docs").mkdir()
    pages = (
        ("envoy.md", "parameters.yaml"), ("keys.md", "teams.txt"), ("gitops.md", "acme.yaml"),
        ("alerts.md", "alerts.yaml"), ("moving-from-litellm.md", "litellm-keys.txt"),
        ("moving-from-litellm.md", "litellm-policy.yaml"),
    )  # fmt: skip
    for page, name in pages:
        (folder / name).write_text(here_documents(DOCS / page)[name])
    (folder / "policies.yaml").write_text(POLICY.format(region="US") + "---\n" + ANSWERS)
    readme = (ROOT / "examples" / "webhook-guardrail" / "README.md").read_text()
    (folder / "projects.yaml").write_text(readme.partition("```yaml\n")[2].partition("```")[0])
    (folder / "request.json").write_bytes(orjson.dumps(CHAT))
    (folder / "requests.jsonl").write_bytes(orjson.dumps(CHAT) + b"\n")
    (folder / "prices.csv").write_text(PRICES)
    (folder / "model_prices_and_context_window.json").write_bytes(orjson.dumps(LITELLM))
    gateways = ROOT / "deploy" / "gateways"
    for name, source in (
        ("extension-policy.yaml", gateways / "envoy-gateway" / "standalone.yaml"),
        ("envoy-filter.yaml", gateways / "istio" / "envoy-filter.yaml"),
    ):
        (folder / name).write_text(source.read_text())
    async with world.stack.client.get(f"{facts.admin_url}/config_dump") as answer:
        (folder / "dump.json").write_bytes(await answer.read())
    rendered = await world.run("", "envoy", "render", "parameters.yaml")
    (folder / "envoy.yaml").write_text(rendered.stdout)


async def _succeed(world: World, dsn: str, *words: str) -> None:
    ran = await world.run(dsn, *words)
    assert ran.exit_code == 0, (words, ran.output, ran.exception)


@on_stack
@pytest.mark.parametrize("words", RUN, ids=[" ".join(words) for words in RUN])
async def test_a_documented_command_runs(world: World, words: Words) -> None:
    """It succeeds on the database and the files that its page describes."""
    keys = world.folder / "keys.jsonl"
    keys.unlink(missing_ok=True)
    if words[:2] == ("keys", "import"):
        keys.write_bytes((world.folder / EXPORTED).read_bytes())
    first = BEFORE.get(words[:2])
    async with world.copy(FULL if first is None else EMPTY) as dsn:
        for before in first or ():
            await _succeed(world, dsn, *before)
        typed = await world.typed(dsn, words)
        ran = await world.run(dsn, *typed, stdin=world.stdin(words))

    assert ran.exit_code == int(words in REPORTS), (ran.output, ran.exception)


@on_stack
async def test_a_documented_command_that_follows_goes_on_until_ctrl_c(world: World) -> None:
    """All of them at once: each takes seconds to begin."""
    async with world.copy(FULL) as dsn:
        typed = [await world.typed(dsn, words) for words in FOLLOWING]
        outcomes = await asyncio.gather(*(_interrupted(world, dsn, words) for words in typed))

    assert dict(zip(FOLLOWING, outcomes, strict=True)) == dict.fromkeys(FOLLOWING, (0, ""))


async def _interrupted(world: World, dsn: str, words: Words) -> tuple[int | None, str]:
    """Run a command until it waits for more, then send SIGINT; return its exit code and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", *words,
        cwd=world.folder,
        env=inherited_environment() | world.environment(dsn),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    ended = asyncio.ensure_future(process.communicate())
    await _until_it_waits(process.pid)
    has_ended = ended.done()
    if not has_ended:
        process.send_signal(signal.SIGINT)
    _, error = await ended
    return -1 if has_ended else process.returncode, error.decode()


async def _until_it_waits(pid: int) -> None:
    """Return once a process only waits, or has ended."""
    still, used = 0, 0.0
    with suppress(psutil.NoSuchProcess):
        running = psutil.Process(pid)
        while still < STILL and running.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.1)
            before, used = used, sum(running.cpu_times())
            is_still = used == before and running.status() == psutil.STATUS_SLEEPING
            still = still + 1 if is_still else 0


def test_each_reason_not_to_run_a_command_is_about_one() -> None:
    """Neither table has an entry for a command that no page names any more."""
    assert [
        one for one in ELSEWHERE if not any(words[: len(one)] == one for words in COMMANDS)
    ] == []
    assert {*COMMANDS} >= PARTS
    assert len(RUN) > 70
