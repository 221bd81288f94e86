from __future__ import annotations

from pathlib import Path

import orjson

from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database

NOWHERE = Egret("postgresql://nobody@127.0.0.1:1/none")
OPEN = "name: open\nunscanned: allow\nguardrails: [{name: a, type: pii, on_error: allow}]\n"
GOOD = "name: good\nguardrails: [{name: a, type: pii}]\n"


def test_advice_on_a_file_needs_no_database_and_exits_with_1(tmp_path: Path) -> None:
    """A build can stop on it; a file that is fine exits with 0."""
    file = tmp_path / "policies.yaml"
    file.write_text(OPEN)

    ran = NOWHERE("policy", "lint", "-f", str(file), "-o", "json")
    file.write_text(GOOD)
    good = NOWHERE("policy", "lint", "-f", str(file))

    assert ran.code == 1
    assert [(row["guardrail"], row["code"]) for row in ran.json] == [
        (None, "unscanned-allow"),
        ("a", "open-on-error"),
    ]
    assert good == Ran(0, "", "Nothing to say about 1 policy.\n")


def test_an_expression_that_apply_refuses_is_refused(tmp_path: Path) -> None:
    """The second engine reads it as well, so that a build does not stop only at applying."""
    file = tmp_path / "policies.yaml"
    file.write_text(
        "name: p\nguardrails:\n"
        "  - {name: a, type: denied_patterns, patterns: [{name: X, regex: 'a$b'}]}\n"
    )

    ran = NOWHERE("policy", "lint", "-f", str(file))

    assert (ran.code, ran.out) == (1, "")
    assert "line 3, column 66: guardrails[0].patterns[0].regex: not supported" in ran.err


def test_advice_on_what_is_in_force_is_a_table(database: Database, tmp_path: Path) -> None:
    """Policy, guardrail, what is wrong and what would be right."""
    egret = Egret(database.dsn)
    file = tmp_path / "policies.yaml"
    file.write_text(OPEN)
    egret("policy", "apply", "-f", str(file), "-y")

    ran = egret("policy", "lint")

    assert ran.code == 1
    assert ran.lines[0] == "policy|guardrail|problem|hint|code"
    assert [line.split("|")[-1] for line in ran.lines[1:]] == ["unscanned-allow", "open-on-error"]


def test_the_schema_is_printed_for_an_editor() -> None:
    """As JSON, and nothing else."""
    ran = NOWHERE("policy", "schema")

    assert (ran.code, ran.err) == (0, "")
    assert orjson.loads(ran.out)["title"] == "Egret policy"


def test_the_first_example_of_the_documentation_needs_no_advice(tmp_path: Path) -> None:
    """It is what a first policy is copied from."""
    page = (Path(__file__).parents[2] / "docs" / "guardrails.md").read_text()
    file = tmp_path / "policies.yaml"
    file.write_text(page.partition("```yaml\n")[2].partition("```")[0])

    assert NOWHERE("policy", "lint", "-f", str(file)) == Ran(
        0, "", "Nothing to say about 1 policy.\n"
    )
