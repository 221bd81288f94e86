"""One run of the embedded stack: progress, the ready lines, signals, the exit code."""

from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import orjson
from pydantic import SecretStr
from rich.console import Console

from egret_tools.devstack.console import login_link
from egret_tools.devstack.processes import PartError, free_port, is_free
from egret_tools.devstack.providers import ProviderCredentials, Upstream, read_address
from egret_tools.devstack.run_directory import PART as RUN_DIRECTORY
from egret_tools.devstack.run_directory import READY_NAME, Data, run_directory
from egret_tools.devstack.stack import (
    SECRETS_NAME,
    RunningStack,
    StackFacts,
    StackOptions,
    running_stack,
)
from sidecar.keys.credentials import PREFIX
from sidecar.settings.administration import AdminSettings
from sidecar.settings.telemetry import TelemetrySettings

EXAMPLE_BODY: Final = (
    '{"model":"gpt-4o","messages":[{"role":"user","content":"Write to bob@example.com"}]}'
)

__all__ = ["Session", "StackOptions", "read_upstream"]


def read_upstream(
    url: str | None, *, ca_file: Path | None, keys: tuple[str | None, str | None]
) -> Upstream | None:
    """Return the provider that the options name, or None for the mock.

    Raises:
        ValueError: the address is not one, or a key is Egret's, which no provider may receive.
    """
    if not url:
        return None
    host, port = read_address(url)
    if any(key is not None and key.startswith(PREFIX) for key in keys):
        raise ValueError(
            f"the provider would receive a key of Egret ({PREFIX}…): set OPENAI_API_KEY or"
            " ANTHROPIC_API_KEY to the provider's own key, or unset it"
        )
    openai, anthropic = (SecretStr(key) if key else None for key in keys)
    upstream = Upstream(
        host, port, credentials=ProviderCredentials(openai=openai, anthropic=anthropic)
    )
    if ca_file is None:
        return upstream
    return Upstream(host, port, ca_file=ca_file.resolve(), credentials=upstream.credentials)


class ConsoleProgress:
    """A spinner while a part starts, and a line with its seconds when it has."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, part: str) -> Iterator[None]:
        """Show *part* as long as the block lasts."""
        started_at = time.monotonic()
        with self._console.status(f"{part} …"):
            yield
        seconds = time.monotonic() - started_at
        self._console.print(f"[green]✓[/] {part:<28} {seconds:5.2f} s", highlight=False)


DEFAULT_HTTP_PORT: Final = 8080
DEFAULT_HTTPS_PORT: Final = 8443
DEFAULT_ADMIN_PORT: Final = 9901


class PortChoice:
    """Chooses the ports of a run, which restarted parts get again.

    A default port that is chosen is reserved by a Unix socket of its name: two runs that start
    together would both find it free, and Envoys share a port without an error (SO_REUSEPORT).
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reservations: list[socket.socket] = []

    def choose(self, wanted: int | None, *, default: int) -> int:
        """Return *wanted*; without one *default*, if that is free; 0 is any free port."""
        if wanted:
            return wanted
        if wanted is None and is_free(default) and self._reserves(default):
            return default
        free = free_port()
        if wanted is None:
            self._say(f"Port {default} is in use; {free} is used instead.")
        return free

    def close(self) -> None:
        """Let other runs have the ports."""
        for reservation in self._reservations:
            reservation.close()

    def _reserves(self, port: int) -> bool:
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0egret-up-{port}")  # abstract: gone with the process (unix(7))
        except OSError:
            reservation.close()
            return False
        self._reservations.append(reservation)
        return True


@dataclass(frozen=True, slots=True)
class Session:
    """Starts the stack, prints its addresses, and stops it on a signal.

    Ports of None are the defaults, or free ones if those are in use.
    """

    options: StackOptions
    run_directory: Path
    http_port: int | None = None
    https_port: int | None = None
    keep: bool = False
    fresh: bool = False
    prints_json: bool = False

    def run(self) -> int:
        """Run until a signal; returns 0, or 128 and its number before all is ready, or 1."""
        console = Console(stderr=self.prints_json)
        try:
            return asyncio.run(until_signal(lambda: self._run(console)))
        except PartError as error:
            show_error(console, error)
            if error.part != RUN_DIRECTORY:  # or another run may own it
                show_logs(console, self.run_directory.resolve() / "logs")
            return 1

    async def _run(self, console: Console) -> None:
        started_at = time.monotonic()
        progress = ConsoleProgress(console)
        data = Data.FRESH if self.fresh else Data.KEPT
        ports = PortChoice(lambda line: console.print(line, highlight=False))
        with (
            closing(ports),
            run_directory(self.run_directory, keep=self.keep, data=data) as run,
        ):
            has_data = (run.data / SECRETS_NAME).exists()
            options = self._with_ports(ports)
            async with running_stack(options, run=run, progress=progress) as stack:
                with suppress(asyncio.CancelledError):  # once all is ready, a signal is the end
                    seconds = time.monotonic() - started_at
                    facts = stack.facts
                    link = None
                    if facts.console_url is not None and not self.prints_json:
                        link = await login_link(facts.postgres_dsn, facts.console_url)
                    self._show(console, stack, seconds=seconds, link=link)
                    if has_data and not self.prints_json:
                        console.print(
                            "\nKeys, policies and usage are those of earlier runs"
                            f" ({run.data}); --fresh drops them.",
                            highlight=False,
                            soft_wrap=True,
                        )
                    raise await stack.keep_running(
                        lambda death, after: show_restart(console, death, after)
                    )

    def _with_ports(self, ports: PortChoice) -> StackOptions:
        return replace(
            self.options,
            http_port=ports.choose(self.http_port, default=DEFAULT_HTTP_PORT),
            https_port=ports.choose(self.https_port, default=DEFAULT_HTTPS_PORT),
            metrics_port=ports.choose(None, default=TelemetrySettings().metrics_port),
            admin_port=ports.choose(None, default=DEFAULT_ADMIN_PORT),
            console_port=ports.choose(None, default=AdminSettings().port),
            console=find_spec("fastapi") is not None,  # of the extra `admin`
        )

    def _show(
        self, console: Console, stack: RunningStack, *, seconds: float, link: str | None
    ) -> None:
        facts = stack.facts
        if self.prints_json:
            print(orjson.dumps(facts.as_json()).decode(), flush=True)  # noqa: T201 - the output
            return
        console.print(f"\n[bold green]Egret is ready[/] after {seconds:.1f} s. Ctrl-C stops it.\n")
        for name, value in self._rows(facts):
            console.print(f"  {name:<10} {value}", markup=False, highlight=False, soft_wrap=True)
        if link is not None:
            console.print("\n[bold]Sign in to the console, once and within five minutes[/]")
            console.print(link, markup=False, highlight=False, soft_wrap=True)
        lines = {
            "Try it": curl_line(facts),
            "Over TLS": tls_curl_line(facts),
            "With a client library, from another shell": client_lines(facts),
            "Keys, policies and limits, from another shell": command_lines(facts),
        }
        for title, line in lines.items():
            console.print(f"\n[bold]{title}[/]")
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _rows(self, facts: StackFacts) -> Iterator[tuple[str, str]]:
        yield "URL", f"{facts.url}  {facts.https_url}"
        yield "Key", facts.key.get_secret_value()
        if facts.mock_debug_url is not None:
            yield "Provider", f"{facts.mock_debug_url}/last shows what it last received"
        if (upstream := self.options.upstream) is not None:
            keys = ", ".join(upstream.credentials.header_values())
            missing = "no key; OPENAI_API_KEY or ANTHROPIC_API_KEY at the start sets one"
            yield "Provider", f"{upstream.host}, {f'with a key for {keys}' if keys else missing}"
        yield "Metrics", f"{facts.metrics_url}  charts: {urljoin(facts.metrics_url, 'status')}"
        yield "Envoy", facts.admin_url
        if facts.console_url is not None:
            yield "Console", facts.console_url
        yield "More", str(self.run_directory / READY_NAME)


def curl_line(facts: StackFacts) -> str:
    """Return a command to copy."""
    return _curl(facts.url, key=facts.key, options=())


def tls_curl_line(facts: StackFacts) -> str:
    """Return a command to copy that goes over TLS."""
    return _curl(facts.https_url, key=facts.key, options=("--cacert", str(facts.ca_file)))


def client_lines(facts: StackFacts) -> str:
    """Return the variables by which OpenAI's libraries and most others find this stack."""
    url, key = f"{facts.url}/v1", facts.key.get_secret_value()
    return f"export OPENAI_BASE_URL={shlex.quote(url)}\nexport OPENAI_API_KEY={shlex.quote(key)}"


def command_lines(facts: StackFacts, *, prefix: Path = Path(sys.prefix)) -> str:
    """Return lines after which `egret` is a command that works on this stack.

    `prefix` is the environment that `egret` is installed in.
    """
    dsn, valkey = shlex.quote(facts.postgres_dsn), shlex.quote(facts.valkey_url)
    return "\n".join(
        [
            *_activation(prefix),
            f"export EGRET_POSTGRES__DSN={dsn}",
            f"export EGRET_VALKEY__URL={valkey}",
            "egret keys list",
        ]
    )


def _activation(prefix: Path) -> Iterator[str]:
    here = Path.cwd()
    place = prefix.relative_to(here) if prefix.is_relative_to(here) else prefix
    if (prefix / "bin" / "activate").is_file():
        yield f"source {shlex.quote(str(place / 'bin' / 'activate'))}"
    elif (prefix / "bin" / "egret").is_file():
        yield f"export PATH={shlex.quote(str(prefix / 'bin'))}:$PATH"


def show_restart(console: Console, death: PartError, seconds: float) -> None:
    """Print the part that ended, how, and after how long it was ready again."""
    how = death.reason.split(";", 1)[0]
    console.print(
        f"[yellow]↻[/] {death.part}: {how}; ready again after {seconds:.1f} s", highlight=False
    )


def show_logs(console: Console, logs: Path) -> None:
    """Print where the logs are, if any were written."""
    if logs.is_dir() and any(logs.iterdir()):
        console.print(
            f"  → all logs are kept in {logs} until the next start",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def show_error(console: Console, error: PartError) -> None:
    """Print the part, the reason and the hint."""
    console.print(f"\n[bold red]✗ {error.part}[/]", highlight=False)
    console.print(f"  {error.reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  → {error.hint}", markup=False, highlight=False, soft_wrap=True)


async def until_signal(work: Callable[[], Awaitable[None]]) -> int:
    """Await *work*, which SIGINT, SIGTERM and SIGHUP cancel; return the exit code.

    It is 128 and the signal's number, as in a shell, or 0 if *work* returned.
    A further signal while things stop changes nothing: each part has a time limit of its own.
    """
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    received: signal.Signals | None = None

    def stop(number: signal.Signals) -> None:
        nonlocal received
        if received is None:
            received = number
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if received is None:
            raise
        return 128 + received
    return 0


def _curl(url: str, *, key: SecretStr, options: tuple[str, ...]) -> str:
    return shlex.join(
        [
            *("curl", "-i", *options, f"{url}/v1/chat/completions"),
            *("-H", f"authorization: Bearer {key.get_secret_value()}"),
            *("-H", "content-type: application/json"),
            *("-d", EXAMPLE_BODY),
        ]
    )
