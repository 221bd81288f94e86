"""`egret up` and `egret demo`: the whole stack on this machine."""

from __future__ import annotations

import enum
import importlib
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from sidecar.cli.connection import DEFAULT_RUN
from sidecar.cli.terminal import fail_without_tools
from sidecar.settings.serving import Timing


class Output(enum.Enum):
    """For people or for programs."""

    TEXT = "text"
    JSON = "json"


def up(  # noqa: PLR0913, PLR0917 - options of a command
    run_directory: Annotated[
        Path,
        typer.Option(
            "--run",
            "--run-directory",
            help="Holds sockets, logs and egret.json; of it only data/ is left in the end.",
        ),
    ] = DEFAULT_RUN,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Egret processes.")] = 2,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Plain HTTP on loopback; 0 is a free one.",
            show_default="8080 if free",
        ),
    ] = None,
    https_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="HTTPS on loopback; 0 is a free one.",
            show_default="8443 if free",
        ),
    ] = None,
    upstream: Annotated[
        str | None, typer.Option(help="A provider instead of the mock, https://host[:port].")
    ] = None,
    upstream_ca: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Whom to trust for it, in PEM; else the system's list.",
        ),
    ] = None,
    openai_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="Sent to the upstream by Envoy.")
    ] = None,
    anthropic_key: Annotated[
        str | None, typer.Option(envvar="ANTHROPIC_API_KEY", help="Sent to the upstream by Envoy.")
    ] = None,
    timing: Annotated[
        Timing, typer.Option(help="Who writes the timing headers: Envoy or Egret.")
    ] = Timing.METADATA,
    traces: Annotated[bool, typer.Option(help="Write spans to traces.jsonl.")] = True,
    keep: Annotated[bool, typer.Option(help="Leave the run directory for a look.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Drop keys, policies and usage of earlier runs.")
    ] = False,
    output: Annotated[Output, typer.Option(help="json prints egret.json and no more.")] = (
        Output.TEXT
    ),
) -> None:
    """Run PostgreSQL, Valkey, workers, Envoy and a mock LLM here, until Ctrl-C.

    Prints a URL, a key and a line to try them with; the same is in run/egret.json, which appears
    once requests are answered. Servers that end are restarted. Keys, policies, prices and usage
    stay in run/data for the next start.

    Example: egret up --port 8080 --workers 4
    """
    if upstream_ca is not None and not upstream:
        raise typer.BadParameter("it needs --upstream", param_hint="--upstream-ca")
    sessions = session_module("up")
    try:
        chosen = sessions.read_upstream(
            upstream, ca_file=upstream_ca, keys=(openai_key, anthropic_key)
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--upstream") from None
    options = sessions.StackOptions(
        workers=workers,
        upstream=chosen,
        timing=timing,
        traces=traces,
    )
    session = sessions.Session(
        options,
        run_directory=run_directory,
        http_port=port,
        https_port=https_port,
        keep=keep,
        fresh=fresh,
        prints_json=output is Output.JSON,
    )
    raise typer.Exit(session.run())


def session_module(command: str) -> ModuleType:
    """Import the module that runs *command*; report a missing package, and exit with 2.

    Only here, since servers and clients take longer to import than options to parse.
    """
    name = f"egret_tools.cli.{command}_session"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        fail_without_tools(f"egret {command}", error.name or name)


def demo(
    output: Annotated[
        Output, typer.Option(help="json prints the rows and no more.")
    ] = Output.TEXT,
) -> None:
    """Start a stack on free ports, send a request of each kind, print a table, and stop.

    Exits 0 only when every request came out as expected.

    Example: egret demo --output json
    """
    session = session_module("demo")
    raise typer.Exit(session.run_demo(prints_json=output is Output.JSON))
