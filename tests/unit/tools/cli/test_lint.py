"""`egret lint` as it is typed."""

from __future__ import annotations

import os
import pty
import resource
import stat
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from egret_tools.envoy_lint.rules import ALL_RULES

from tests.support.command_line import run_command
from tests.support.envoy_mistakes import MISTAKES
from tests.support.own_envoy import own_text, with_mistake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "envoy.yaml"
    path.write_text(own_text())
    return path


def lint(*arguments: str | Path, stdin: str | None = None) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it said."""
    ran = run_command(["lint", *map(str, arguments)], stdin=stdin)
    return ran.code, ran.out, ran.err


def test_a_clean_file_says_so_in_one_line(file: Path) -> None:
    """And nothing on standard output."""
    assert lint(file) == (0, "", "0 errors, 0 warnings, 0 notes, 0 suppressed\n")


def test_a_mistake_fails_the_command_and_is_shown_with_its_hint(file: Path) -> None:
    """Place, rule, risk and what would be right."""
    file.write_text(with_mistake(MISTAKES["EGR101"]))
    code, shown, said = lint(file, "--output", "json")
    (row,) = orjson.loads(shown)
    assert (code, said) == (1, "1 error, 0 warnings, 0 notes, 0 suppressed\n")
    assert (row["rule"], row["severity"], row["fixable"]) == ("EGR101", "error", True)
    assert row["hint"] == row["mend"] == "failure_mode_allow: false"
    assert row["place"] == f"{file}:{row['line']}:{row['column']}"


@pytest.mark.parametrize(
    ("severity", "code"), [("error", 0), ("warning", 0), ("note", 1)], ids=str
)
def test_the_severity_that_fails_is_chosen(file: Path, severity: str, code: int) -> None:
    """A note is no reason to stop a deployment unless somebody says so."""
    file.write_text(with_mistake(MISTAKES["EGR505"]))
    assert lint(file, "--fail-on", severity)[0] == code


def test_a_fix_is_written_and_shown(file: Path) -> None:
    """The file is right afterwards, and the difference was seen."""
    file.write_text(own_text().replace("failure_mode_allow: false", "failure_mode_allow: true"))
    code, _, said = lint(file, "--fix")
    assert code == 0
    assert "-                      failure_mode_allow: true" in said
    assert file.read_text() == own_text()


def test_a_fix_keeps_the_mode_of_the_file_and_the_link_to_it(file: Path, tmp_path: Path) -> None:
    """And line ends and a byte order mark, as all else."""
    wrong = own_text().replace("failure_mode_allow: false", "failure_mode_allow: true")
    file.write_bytes(b"\xef\xbb\xbf" + wrong.replace("\n", "\r\n").encode())
    file.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    assert lint(link, "--fix")[0] == 0
    right = own_text().replace("\n", "\r\n").encode()
    assert (link.is_symlink(), file.read_bytes()) == (True, b"\xef\xbb\xbf" + right)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_a_fix_that_finds_no_room_leaves_the_file_as_it_was(file: Path, tmp_path: Path) -> None:
    """It had been emptied before the first byte was written."""
    wrong = own_text().replace("failure_mode_allow: false", "failure_mode_allow: true")
    file.write_text(wrong)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(wrong) // 2, before[1]))
    try:
        code, _, said = lint(file, "--fix")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert said.endswith(
        f"error: cannot write {file}: File too large; free space, or name a place to write to\n"
    )
    assert file.read_text() == wrong
    assert list(tmp_path.iterdir()) == [file]


def test_standard_input_is_read() -> None:
    """`curl …/config_dump | egret lint -`."""
    code, shown, _ = lint("-", "--output", "sarif", stdin=with_mistake(MISTAKES["EGR101"]))
    assert code == 1
    assert [one["ruleId"] for one in orjson.loads(shown)["runs"][0]["results"]] == ["EGR101"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no file is given"),
        (("missing.yaml",), "missing.yaml: No such file or directory"),
    ],
    ids=["none", "missing"],
)
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...], words: str) -> None:
    """Apart from what a finding exits with."""
    code, _, said = lint(*arguments)
    assert code == 2
    assert words in said


def test_what_is_not_utf_8_exits_with_two(file: Path) -> None:
    """With the byte."""
    file.write_bytes(b"a: \xff\n")
    code, _, said = lint(file)
    assert code == 2
    assert f"{file}: byte 3 is not UTF-8" in said


def test_what_is_not_yaml_exits_with_two(file: Path) -> None:
    """With the place."""
    file.write_text("a: [1\n")
    code, _, said = lint(file)
    assert code == 2
    assert f"{file}:2:1" in said


def test_the_rules_can_be_listed() -> None:
    """Each with its risk and hint."""
    code, shown, _ = lint("--rules", "--output", "json")
    assert code == 0
    assert [row["rule"] for row in orjson.loads(shown)] == [rule.id for rule in ALL_RULES]


@pytest.mark.parametrize(
    ("version", "code"), [("1.40", 0), ("1.38.3", 1), ("v1.39", 1), ("old", 2)]
)
def test_the_version_of_envoy_may_be_told(tmp_path: Path, version: str, code: int) -> None:
    """What it lacks is a finding; what is no version is wrong usage."""
    file = tmp_path / "envoy.yaml"
    file.write_text(own_text())
    ended, out, _ = lint(file, "--envoy", version, "--output", "json")
    assert ended == code
    assert ("FULL_DUPLEX_STREAMED" in out) == (code == 1)


def test_an_old_envoy_has_the_operators_of_the_oldest_that_is_known(tmp_path: Path) -> None:
    """Which of them it lacks is not known."""
    file = tmp_path / "envoy.yaml"
    file.write_text(own_text())
    rules = [row["rule"] for row in orjson.loads(lint(file, "--envoy", "1.30", "-o", "json")[1])]
    assert "EGR522" in rules
    assert not {"EGR131", "EGR528"} & set(rules)


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_each_finding_is_one_line_at_every_width(
    file: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """File, line and column first, as editors read them; nothing is cut."""
    monkeypatch.setenv("COLUMNS", columns)
    file.write_text(with_mistake(MISTAKES["EGR101"]))
    _, shown, _ = lint(file)
    (row,) = orjson.loads(lint(file, "--output", "json")[1])
    assert shown == (
        f"{file}:{row['line']}:{row['column']}: error EGR101 while Egret is down, every request "
        "passes unchecked and without a key (fix: failure_mode_allow: false)\n"
    )


def test_a_finding_wraps_at_the_width_of_a_terminal(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words are the same, and none is cut."""
    file.write_text(with_mistake(MISTAKES["EGR101"]))
    piped = lint(file)[1]
    monkeypatch.setenv("COLUMNS", "60")
    master, slave = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-m", "sidecar", "lint", file], stdout=slave, check=False, timeout=60
    )
    os.close(slave)
    shown = os.read(master, 65_536).decode()
    os.close(master)

    lines = shown.splitlines()
    assert ran.returncode == 1
    assert shown.split() == piped.split()
    assert len(lines) > 2
    assert all(len(line) <= 60 for line in lines if len(line.split()) > 1)


def test_a_table_is_printed_on_request(file: Path) -> None:
    """Where it is wide enough; a pipe is."""
    file.write_text(with_mistake(MISTAKES["EGR101"]))
    shown = lint(file, "--output", "table")[1]
    assert "EGR101" in shown
    assert "│" in shown


def test_a_part_that_was_not_checked_fails_the_command(tmp_path: Path) -> None:
    """Unless a flag allows it; whatever the severity that fails."""
    file = tmp_path / "route.yaml"
    file.write_text("apiVersion: v1\nkind: AIGatewayRoute\nmetadata: {name: llm}\n")
    code, shown, said = lint(file, "--fail-on", "error")
    assert code == 1
    assert shown.startswith(f"{file}:2:7: warning EGR005 AIGatewayRoute llm: nothing in it was")
    assert said == "0 errors, 0 warnings, 0 notes, 0 suppressed, 1 not checked\n"
    assert lint(file, "--allow-unchecked")[0] == 0
    (result,) = orjson.loads(lint(file, "--output", "sarif")[1])["runs"][0]["results"]
    assert result["ruleId"] == "EGR005"


def test_plain_resources_of_a_rendered_chart_do_not_fail_the_command(tmp_path: Path) -> None:
    """Their number is in the last line, so that silence on them does not look like praise."""
    file = tmp_path / "chart.yaml"
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: egret}\n"
    file.write_text(f"{service}---\n{service}")
    assert lint(file) == (
        0,
        "",
        "0 errors, 0 warnings, 0 notes, 0 suppressed, 2 resources without Envoy configuration\n",
    )


def test_a_file_that_cannot_be_read_does_not_hide_the_next(file: Path, tmp_path: Path) -> None:
    """A template among them is called one."""
    template = tmp_path / "envoy.yaml.j2"
    template.write_text("admin: {}\n{% if a %}\n")
    file.write_text(with_mistake(MISTAKES["EGR101"]))
    code, shown, said = lint(template, file)
    assert code == 2
    assert "EGR101" in shown
    assert f"error: {template}:2:1: this looks like a template; render it first" in said


def test_the_cluster_that_is_taken_for_egrets_is_named(file: Path) -> None:
    """So that a wrong guess is seen."""
    file.write_text(
        own_text()
        .replace("cluster_name: egret", "cluster_name: judge")
        .replace("- name: egret\n", "- name: judge\n")
    )
    code, _, said = lint(file)
    assert code == 0
    assert "ext_proc calls cluster `judge`, which is taken for Egret" in said
    assert lint(file, "--cluster", "egret")[0] == 1


def test_control_characters_of_a_file_do_not_reach_the_terminal(file: Path) -> None:
    """A field's name could move the cursor, or turn the text around."""
    file.write_text('admin: {"a\\e[2Jb\\u202e": 1}\n')
    _, shown, _ = lint(file)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[2Jb\\u202e" in shown
