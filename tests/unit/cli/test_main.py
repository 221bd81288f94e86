from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sidecar import __version__
from sidecar.cli.main import command_tree

IMPORTED = """
import sys
from sidecar import __version__
from sidecar.cli.main import command_tree
command_tree(sys.argv[1:])
print(*sorted(name for name in sys.modules if name.startswith("sidecar.cli.")))
"""


def imported(*words: str) -> set[str]:
    """Return the modules of commands that are imported to run a command line."""
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words], check=True, capture_output=True, text=True
    )
    return set(ran.stdout.split())


def test_a_command_does_not_wait_for_the_import_of_others() -> None:
    """What the command line does not name stays unread."""
    modules = imported("keys", "list")

    assert "sidecar.cli.keys" in modules
    assert modules.isdisjoint(
        {"sidecar.cli.guardrails", "sidecar.cli.policy", "egret_tools.cli.up"}
    )


@pytest.mark.parametrize(
    "words", [("--as", "policy", "keys", "--help"), ("--as", "me", "keys", "--help")]
)
def test_a_name_that_is_a_commands_as_well_does_not_hide_the_command(words: tuple[str]) -> None:
    """`--as policy keys` is about keys."""
    ran = CliRunner().invoke(command_tree(words), words)

    assert ran.exit_code == 0
    assert "rotate" in ran.stdout


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant() -> None:
    """All of them are looked through for it."""
    ran = CliRunner().invoke(command_tree(["polcy"]), ["polcy"])

    assert ran.exit_code == 2
    assert "Did you mean 'policy'?" in ran.stderr


def test_the_version_is_told_without_a_command() -> None:
    """In one line, for scripts and reports of faults."""
    ran = CliRunner().invoke(command_tree(["--version"]), ["--version"])

    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, f"egret {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limits", "set", "--org", "acme", "--model", "\udcff"), "error: '\\udcff' is no text"),
        (("keys", "list", "--team", "a\0b"), "error: 'a\\x00b' is no text"),
        (("--as", "\udcff", "keys", "list"), "error: '\\udcff' is no text"),
    ],
    ids=["bytes that are not UTF-8", "NUL", "of the actor"],
)
def test_a_word_that_no_database_takes_is_named(words: tuple[str, ...], said: str) -> None:
    """Python makes lone surrogates of bytes that are not UTF-8."""
    ran = CliRunner().invoke(command_tree(words), words)

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith(said)
