from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import Egret

TEAMS = """\
# Two teams of one organization.
egret orgs create acme --if-missing --output json
teams create search --org acme --output json   # with or without the program's name

teams create 'chat' --org acme --output json
"""


def test_commands_of_a_file_run_one_after_the_other(egret: Egret, tmp_path: Path) -> None:
    file = tmp_path / "teams.txt"
    file.write_text(TEAMS)

    ran = egret("--as", "git", "batch", "-f", str(file))

    assert (ran.code, ran.err) == (0, "3 commands done.\n")
    assert [one["team"] for one in egret("teams", "list", "-o", "json").json] == [
        "acme/chat",
        "acme/search",
    ]
    authors = {one["actor"] for one in egret("audit", "list", "-o", "json").json}
    assert authors == {"git"}


def test_a_command_that_fails_ends_the_batch_with_its_code(egret: Egret) -> None:
    commands = "orgs create acme\norgs create acme\norgs create zoo\n"

    ran = egret("batch", "-f", "-", stdin=commands)

    assert (ran.code, ran.err.splitlines()) == (
        3,
        [
            "error: organization acme exists already; choose another name",
            "Line 2 failed; 1 command behind it did not run.",
        ],
    )
    assert [one["name"] for one in egret("orgs", "list", "-o", "json").json] == ["acme"]


def test_a_batch_may_go_on_after_commands_that_fail(egret: Egret) -> None:
    commands = "orgs create acme\norgs create acme\nteams create\norgs create zoo\n"

    ran = egret("batch", "--keep-going", "-f", "-", stdin=commands)

    assert (ran.code, ran.err.splitlines()[-1]) == (1, "2 of 4 commands failed, in line 2, 3.")
    assert [one["name"] for one in egret("orgs", "list", "-o", "json").json] == ["acme", "zoo"]


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        ("orgs create acme\norgs create 'zoo\n", "line 2: no closing quotation"),
        ("orgs create acme\nbatch -f x\n", "line 2: `batch` does not run in a batch"),
        ("orgs create acme\negret serve\n", "line 2: `serve` does not run in a batch"),
        (f"orgs create acme\n{'a' * 32_769}\n", "line 2: longer than 32768 characters"),
    ],
)
def test_of_a_file_with_a_fault_nothing_is_run(egret: Egret, commands: str, problem: str) -> None:
    ran = egret("batch", "-f", "-", stdin=commands)

    assert (ran.code, ran.err) == (2, f"error: {problem}; nothing was run\n")
    assert egret("orgs", "list", "-o", "json").json == []


def test_commands_beyond_any_use_are_refused_before_they_are_read() -> None:
    ran = Egret("postgresql://nobody@127.0.0.1:1/none")("batch", "-f", "-", stdin="a" * 10_000_000)

    problem = "error: the commands are longer than 5000000 characters; divide the file"
    assert (ran.code, ran.err) == (2, f"{problem}; nothing was run\n")
