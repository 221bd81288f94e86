"""`egret demo`: a guided tour of what Egret does, on a stack of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from egret_tools.cli.up import Output, session_module


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
