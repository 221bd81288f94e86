from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database

POLICY = """\
name: strict
guardrails:
  - {name: codes, type: denied_patterns, patterns: [{name: CODE, regex: 'PRJ-[0-9]{4}'}]}
  - {name: mail, type: pii, types: [EMAIL], action: redact, routes: [embeddings]}
  - {name: words, type: denied_terms, terms: [Bluebird], mode: shadow}
  - {name: judge, type: webhook, url: "http://127.0.0.1:9/"}
"""
NOWHERE = Egret("postgresql://nobody@127.0.0.1:1/none")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(POLICY)
    return path


def found(ran: Ran) -> dict[str, tuple[str, list[tuple[str, int, int, int]]]]:
    assert ran.code == 0, ran
    return {
        one["name"]: (
            one["verdict"],
            [(each["type"], each["text"], each["start"], each["end"]) for each in one["findings"]],
        )
        for one in ran.json["guardrails"]
    }


def test_the_built_in_policy_judges_a_text_without_a_database() -> None:
    """Offsets count characters; the text itself is not repeated."""
    ran = NOWHERE("guardrails", "test", "ünïcode bob@example.com", "-o", "json")

    assert found(ran) == {
        "secrets": ("pass", []),
        "likely-secrets": ("pass", []),
        "pii": ("redact", [("EMAIL", 0, 8, 23)]),
        "prompt-injection": ("pass", []),
    }
    assert (ran.json["policy"], ran.json["decision"]) == ("default", "redact")
    assert all(one["microseconds"] > 0 for one in ran.json["guardrails"])
    assert "bob" not in ran.out


def test_a_secret_is_shown_with_its_tier() -> None:
    """The built-in policy redacts what may well be a default, and lets the request go on."""
    text = "postgres://postgres:postgres@db/app"

    ran = NOWHERE("guardrails", "test", text, "-o", "json")
    shown = NOWHERE("guardrails", "test", text)

    by_name = {one["name"]: one for one in ran.json["guardrails"]}
    assert by_name["secrets"]["findings"] == []
    assert by_name["likely-secrets"]["verdict"] == "redact"
    assert [(one["type"], one["tier"]) for one in by_name["likely-secrets"]["findings"]] == [
        ("DEFAULT_PASSWORD", "likely")
    ]
    assert ran.json["decision"] == "redact"
    assert "DEFAULT_PASSWORD (likely)" in shown.out


def test_a_file_of_policies_is_tried_without_a_database(file: Path) -> None:
    """Whatever routes they are for, in shadow or not; nobody is asked."""
    text = "PRJ-1234 to bob@example.com about bluebird"

    ran = NOWHERE("guardrails", "test", text, "--policy-file", str(file), "-o", "json")

    assert {name: verdict for name, (verdict, _) in found(ran).items()} == {
        "codes": "block",
        "mail": "redact",
        "words": "block",
    }
    assert (ran.json["decision"], ran.json["not_asked"]) == ("deny", ["judge"])


def test_people_see_verdicts_and_the_decision(file: Path) -> None:
    """Control characters of the text do not reach the terminal."""
    ran = NOWHERE("guardrails", "test", "-f", "-", "--policy-file", str(file), stdin="a \x1b[2J b")

    assert ran.code == 0
    assert ran.lines[0] == "user: a ␛[2J b"
    assert [line.split("|")[:4] for line in ran.lines[1:6]] == [
        ["guardrail", "type", "mode", "verdict"],
        ["codes", "denied_patterns", "enforce", "pass"],
        ["mail", "pii", "enforce", "pass"],
        ["words", "denied_terms", "shadow", "pass"],
        ["judge", "webhook", "enforce", "not asked"],
    ]
    assert ran.lines[6].startswith("Goes on unchanged; one pass for all takes ")


def test_a_request_s_body_is_read_as_its_dialect_does(file: Path, tmp_path: Path) -> None:
    """Every string of it, whoever says it."""
    body = tmp_path / "request.json"
    body.write_text(
        json.dumps(
            {
                "model": "claude",
                "system": "PRJ-0001",
                "messages": [{"role": "assistant", "content": "x@example.com"}],
            }
        )
    )

    ran = NOWHERE(
        *("guardrails", "test", "--dialect-body", str(body), "--path", "/v1/messages"),
        *("--policy-file", str(file), "-o", "json"),
    )

    judged = found(ran)
    assert [kind for kind, *_ in judged["codes"][1]] == ["CODE"]
    assert [kind for kind, *_ in judged["mail"][1]] == ["EMAIL"]


def test_a_role_that_does_not_exist_is_refused(file: Path) -> None:
    """The text would be judged as a user's, whatever was meant."""
    ran = NOWHERE("guardrails", "test", "hello", "--role", "sytem", "--policy-file", str(file))

    assert (ran.code, ran.out) == (2, "")
    assert "'system'" in ran.err


def test_a_policy_of_the_store_is_tried(database: Database, file: Path) -> None:
    """By its name, as it is in force."""
    egret = Egret(database.dsn)
    assert egret("policy", "apply", "-f", str(file), "-y").code == 0

    ran = egret("guardrails", "test", "PRJ-1234", "--policy", "strict", "-o", "json")

    assert found(ran)["codes"] == ("block", [("CODE", 0, 0, 8)])


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "error"),
    [
        (
            ["a", "-f", "x"],
            None,
            2,
            "say which text; give a text, --file or --dialect-body, or pipe it in",
        ),
        (
            ["--answer", "--dialect-body", "-"],
            "{}",
            2,
            "--dialect-body is a request, not an answer; give the text that the model said",
        ),
        (["-f", "nope"], None, 2, "nope: No such file or directory; name a file that can be read"),
        (
            ["a", "--path", "/v1/messages"],
            None,
            2,
            "only a request has a --path; give --dialect-body too",
        ),
        (
            ["a", "--answer", "--role", "system"],
            None,
            2,
            (
                "only a text has a --role;"
                " leave --role out: an answer is the model's, and a request names its roles"
            ),
        ),
        (
            ["--dialect-body", "-", "--path", "/x"],
            "{}",
            2,
            "no dialect knows POST /x; give --path",
        ),
        (
            ["--dialect-body", "-"],
            '{"messages": [], "messages": []}',
            1,
            (
                "The body has the same key twice in one object;"
                " a request with this body is refused with 400"
            ),
        ),
    ],
)
def test_what_cannot_be_tried_is_said_in_one_line(
    arguments: list[str], stdin: str | None, code: int, error: str
) -> None:
    """What is wrong, then what would be right."""
    ran = NOWHERE("guardrails", "test", *arguments, stdin=stdin)

    assert ran == Ran(code, "", f"error: {error}\n")


def test_an_answer_is_judged_by_what_judges_answers(tmp_path: Path) -> None:
    """By rules and schemas, with the place that does not fit; nothing of a request's side."""
    file = tmp_path / "answers.yaml"
    file.write_text(
        "name: answers\nguardrails:\n"
        "  - {name: words, type: denied_terms, terms: [Bluebird]}\n"
        "  - {name: order, type: json_schema, schema: {properties: {n: {type: integer}}}}\n"
        "  - {name: mail, type: pii, stage: both, action: redact}\n"
    )
    text = '{"n": "bluebird at bob@example.com"}'

    ran = NOWHERE("guardrails", "test", "--answer", text, "--policy-file", str(file), "-o", "json")
    table = NOWHERE("guardrails", "test", "--answer", text, "--policy-file", str(file))

    judged = found(ran)
    assert {name: verdict for name, (verdict, _) in judged.items()} == {
        "order": "block",
        "mail": "redact",
    }
    assert [one["place"] for one in ran.json["guardrails"][0]["findings"]] == ["answer/n"]
    assert "SCHEMA_TYPE at answer/n" in table.out


def test_a_policy_that_is_not_in_the_file_is_told(file: Path) -> None:
    """The file holds others."""
    ran = NOWHERE("guardrails", "test", "a", "--policy-file", str(file), "--policy", "lax")

    assert ran == Ran(
        1,
        "",
        f"error: {file} holds no policy lax; name one of it, or none for the first\n",
    )
