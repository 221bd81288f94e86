"""`egret conformance`: tests an ext_proc server through a real Envoy."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Final

import typer

from egret_tools.cli.up import session_module
from sidecar.cli.terminal import WRONG_USAGE, fail

DEFAULT_PATH: Final = "/v1/chat/completions"


class ConformanceOutput(enum.Enum):
    """For people, for programs, for a CI system, or for a code host."""

    TABLE = "table"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"


def conformance(  # noqa: PLR0913, PLR0917 - one option each
    target: Annotated[
        str, typer.Option("--target", metavar="ADDRESS", help="unix:PATH or host:port, no TLS.")
    ],
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", "-H", metavar="NAME:VALUE", help="Sent with requests that must pass."
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="EGRET_CONFORMANCE_KEY",
            help="An API key of Egret with the built-in policy: adds the cases of that policy.",
        ),
    ] = None,
    path: Annotated[
        str, typer.Option(help="Where requests go that name no path of their own.")
    ] = DEFAULT_PATH,
    mode: Annotated[
        list[str] | None, typer.Option("--mode", help="Only in this processing mode; repeatable.")
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option("--case", help="Only cases whose name holds this.")
    ] = None,
    cases: Annotated[
        list[Path] | None, typer.Option("--cases", help="A file of further cases; repeatable.")
    ] = None,
    envoy: Annotated[
        Path | None, typer.Option(help="An Envoy to use instead of that of the wheel.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="A file for each result as it comes, one line of JSON."),
    ] = None,
    output: Annotated[ConformanceOutput, typer.Option("--output", "-o")] = ConformanceOutput.TABLE,
) -> None:
    """Run conformance cases against an ext_proc server, through a real Envoy.

    Starts Envoy and an upstream here; only the server must be running. Exits 0 when every case
    conforms, 1 when one does not, and says what differed.

    Example: egret conformance --target unix:/run/egret/sockets/worker-0.sock --key egk_…
    """
    session = session_module("conformance")
    try:
        headers = tuple(_pair(one) for one in header or ())
        plan = session.Plan.of(target, headers=headers, key=key, path=path, envoy=envoy)
        runs = session.choose(
            files=cases or (), modes=mode or (), names=case or (), with_egret=key is not None
        )
    except ValueError as error:
        fail(str(error), hint="see egret conformance --help", code=WRONG_USAGE)
    printing = session.Printing(output, results)
    # A mode that the user names is run to its end, whether the server serves it or not.
    raise typer.Exit(session.run(plan, runs, printing, gives_up=not mode))


def _pair(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"--header {name!r} has no value; write NAME:VALUE")
    return name.strip().lower(), value.strip()
