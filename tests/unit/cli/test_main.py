from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
from typer import Typer
from typer.testing import CliRunner

from sidecar import __version__
from sidecar.cli.main import COMMANDS, command_tree
from sidecar.settings.sections import inherited_environment

IMPORTED = """
import sys
from sidecar import __version__
from sidecar.cli.main import command_tree
command_tree(sys.argv[1:])
modules = sorted(sys.modules)
print(*(name for name in modules if name.startswith(("sidecar.", "egret_tools."))))
"""


WORKER_PARTS = ("sidecar.worker", "sidecar.guardrails", "sidecar.storage", "sidecar.policy")

WITHOUT_TOOLS = """
import sys
sys.modules["egret_tools"] = None
from sidecar.cli.main import run
for line in sys.argv[1:]:
    sys.argv[1:] = line.split()
    try:
        run()
    except SystemExit as end:
        print(end.code)
"""

INTERRUPTED = """
import os, signal, sys
from sidecar.__main__ import main

interrupted = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == interrupted:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
main()
"""


def ran(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in this environment and more."""
    return subprocess.run(
        command,
        env=inherited_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


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


def test_help_a_mistyped_command_and_completion_import_no_command() -> None:
    """The table has all that they show."""
    assert imported("--help", "ke", "keyz").isdisjoint({"sidecar.cli.keys", "egret_tools.cli.up"})


def test_a_probe_of_health_imports_none_of_the_parts_of_a_worker() -> None:
    """An orchestrator runs it every few seconds beside the workers."""
    assert "sidecar.settings.process" in imported("health")
    assert not [one for one in imported("health") if one.startswith(WORKER_PARTS)]


def test_the_table_quotes_the_first_paragraph_of_each_command() -> None:
    """The help of one command begins with the line that the help of all has."""
    for name, (place, summary) in COMMANDS.items():
        found = resolve_name(place)
        group = found.info.help if isinstance(found, Typer) else None
        text = group or (inspect.getdoc(found) or "").partition("\n\n")[0]
        assert summary == ("" if " " in name else " ".join(text.split())), name


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
    ran = CliRunner().invoke(command_tree(["polici"]), ["polici"])

    assert ran.exit_code == 2
    assert "Did you mean 'policy'?" in ran.stderr


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("keys", "list", "-o", "yaml"), "'yaml' is not one of 'table', 'json'."),
        (("audit", "list", "--limit", "many"), "must be a whole number"),
        (("audit", "list", "--limit", "0"), "must be at least 1"),
        (("policy", "show", "x", "--version", "2147483648"), "must be at most 2147483647"),
        (("policy", "diff", "x", "--from", "2147483648"), "must be at most 2147483647"),
        (("policy", "diff", "x", "--to", "2147483648"), "must be at most 2147483647"),
        (("policy", "rollback", "x", "--to", "2147483648"), "must be at most 2147483647"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused_in_plain_words(
    words: tuple[str, ...], fault: str
) -> None:
    result = CliRunner().invoke(command_tree(words), words)

    said = " ".join(result.stderr.replace("│", " ").split())
    assert (result.exit_code, f": {fault} ╰" in said) == (2, True), said


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("diff", "--prun"), id="an unknown option"),
        pytest.param(("diff", "-o", "yaml"), id="an unknown value"),
        pytest.param(("--prune", "diff"), id="an option before the command"),
        pytest.param(("diff", "\udcff"), id="no text"),
    ],
)
def test_a_mistyped_diff_does_not_pass_for_a_difference(words: tuple[str, ...]) -> None:
    """Pipelines read 2 as drift."""
    assert CliRunner().invoke(command_tree(words), words).exit_code == 1


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


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_types_of_values_only(name: str) -> None:
    """A flag takes none, and a repeated option takes one at a time."""
    words = [*name.split(), "--help"]
    shown = CliRunner().invoke(command_tree(words), words).stdout

    assert "--help" in shown
    assert "<bool>" not in shown
    assert "list[" not in shown


@pytest.mark.parametrize("name", ["up", "top", "bench", "policy promote"])
def test_the_directory_of_a_stack_has_one_name_in_every_command(name: str) -> None:
    """`egret up` makes it; the others read it."""
    words = [*name.split(), "--help"]
    shown = CliRunner(env={"COLUMNS": "120"}).invoke(command_tree(words), words).stdout

    assert re.search(r"--run[ ,]", shown)


def test_help_breaks_paragraphs_at_the_width_of_the_terminal_only() -> None:
    """The lines of a docstring are longer than those of a common terminal."""
    words = ["apply", "--help"]
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(command_tree(words), words).stdout

    assert "file names stay as they are; --prune deletes" in " ".join(shown.split())
    assert " file names stay as\n" not in "\n".join(map(str.rstrip, shown.splitlines()))


@pytest.mark.parametrize(
    "module",
    ["sidecar.cli.main", "pydantic", "sidecar.cli.policy", "egret_tools.cli.demo_session"],
    ids=["of all commands", "of a library", "of one command", "in a command"],
)
def test_ctrl_c_during_imports_ends_a_command_without_a_traceback(module: str) -> None:
    """Python raises KeyboardInterrupt there, in some places as an exception of other kinds."""
    words = ["demo"] if module.startswith("egret_tools") else ["policy", "schema"]
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, *words], capture_output=True, check=False
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"")


@pytest.mark.parametrize("words", ["policy schema", "policy --help", "--version"])
def test_a_full_disk_is_an_error_of_one_line(words: str) -> None:
    """Whether the output is written in pieces or only as the process ends."""
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "sidecar", *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert ran.returncode == 1
    assert ran.stderr == (
        b"error: cannot write the output: No space left on device; free space for it, or name"
        b" another place\n"
    )


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        (">&-", 1, "error: cannot write the output: Bad file descriptor; free space for it, or"),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 1, ""),
    ],
    ids=["output", "errors", "all"],
)
def test_a_closed_stream_is_no_traceback(closed: str, code: int, said: str) -> None:
    """As a job may run that a supervisor starts without them."""
    shell = ran("sh", "-c", f'"$0" -m sidecar policy schema {closed}', sys.executable)

    assert (shell.returncode, shell.stderr[: len(said) or None]) == (code, said)


def test_a_closed_standard_input_is_an_empty_one() -> None:
    """As a job has that a supervisor starts without one."""
    shell = ran("sh", "-c", '"$0" -m sidecar logs <&-', sys.executable)

    assert (shell.returncode, shell.stdout, shell.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "words",
    ["batch -f", "guardrails test --file", "lint", "price import"],
)
def test_a_file_that_cannot_be_read_is_no_output_that_cannot_be_written(words: str) -> None:
    """As on a disk that fails; the address 0 of a process's memory cannot be read either."""
    command = [sys.executable, "-m", "sidecar", *words.split(), "/proc/self/mem"]

    shell = ran(*command, EGRET_POSTGRES__DSN="postgresql://egret@127.0.0.1:1/egret")

    assert (shell.returncode, shell.stdout, shell.stderr) == (
        2,
        "",
        "error: /proc/self/mem: Input/output error; name a file that can be read\n",
    )


def test_a_reader_that_has_enough_gets_no_error() -> None:
    """`egret policy schema | head`."""
    command = [sys.executable, "-m", "sidecar", "policy", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        assert ran.stdout is not None
        ran.stdout.close()
        assert ran.stderr is not None
        assert ran.stderr.read() == b""


TOOLS = sorted(name for name, (place, _) in COMMANDS.items() if place.startswith("egret_tools."))


def test_commands_of_the_tools_are_those_that_no_worker_needs() -> None:
    """They come with egret-tools, a distribution of its own."""
    assert TOOLS == [
        "bench",
        "conformance",
        "demo",
        "envoy",
        "lint",
        "logs",
        "replay",
        "top",
        "up",
    ]


def test_a_command_without_its_package_names_the_way_to_install_it() -> None:
    """In one line, with the exit code of wrong usage."""
    lines = [*TOOLS, "lint --fix x.yaml", "envoy --help"]
    done = ran(sys.executable, "-c", WITHOUT_TOOLS, *lines)

    assert (done.returncode, done.stdout) == (0, "2\n" * len(lines))
    for line, told in zip(lines, done.stderr.splitlines(), strict=True):
        assert told.startswith(
            f"error: `egret {line.split()[0]}` needs egret-tools, and egret_tools is not "
            "installed; run `make setup` in a checkout and then its .venv/bin/egret, or "
        )


def test_all_other_commands_work_without_the_tools() -> None:
    """The help lists every command all the same."""
    done = ran(sys.executable, "-c", WITHOUT_TOOLS, "--help")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0"), done.stderr
    assert done.stdout.count("Not installed: a part of egret-tools.") == len(TOOLS)
    assert "API keys:" in done.stdout


@pytest.mark.parametrize("words", [("--help",), ("keys", "create", "--help")])
def test_the_help_names_the_command_however_it_was_started(words: tuple[str, ...]) -> None:
    """Not the module, which nobody types."""
    done = ran(sys.executable, "-m", "sidecar", *words, COLUMNS="100")

    assert done.stdout.split("\n")[1].split()[:2] == ["Usage:", "egret"]


BASH = """
source <(_EGRET_COMPLETE=source_bash {egret})
for line in "$@"; do
    COMP_WORDS=($line) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _egret_completion {egret}
    echo "$line: ${{COMPREPLY[@]}}"
done
"""
COMPLETED = {
    "egret ke": {"keys"},
    "egret li": {"lint", "limits"},
    "egret --as me ke": {"keys"},
    "egret keys ro": {"rotate"},
    "egret keys list --out": {"--output"},
}


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """By the script that `egret --install-completion` installs."""
    egret = tmp_path / "egret"
    egret.write_text(f'#!/bin/sh\nexec {sys.executable} -m sidecar "$@"\n')
    egret.chmod(0o755)

    done = ran("bash", "-c", BASH.format(egret=egret), "bash", *COMPLETED)

    offered = dict(line.split(": ") for line in done.stdout.splitlines())
    assert {line: set(found.split()) for line, found in offered.items()} == COMPLETED, done.stderr


def test_a_batch_that_an_editor_of_windows_saved_runs(tmp_path: Path) -> None:
    """With a byte order mark and its line ends."""
    file = tmp_path / "commands.txt"
    file.write_bytes(b"\xef\xbb\xbfegret policy schema\r\n# done\r\n")

    batch = ran(sys.executable, "-m", "sidecar", "batch", "-f", str(file))

    assert (batch.returncode, batch.stderr) == (0, "1 command done.\n")
