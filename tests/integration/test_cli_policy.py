from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.policy.parse import default_policy_text
from tests.support.command_line import Egret, Ran

STRICT = """\
name: strict
guardrails:
  - name: secrets
    type: secrets
  - name: judge
    type: webhook
    url: https://judge.example/v1
    headers:
      authorization: Bearer hunter2
"""
STRICT_SHOWN = """\
name: strict
unscanned: block
guardrails:
- name: secrets
  type: secrets
  stage: input
  action: block
  mode: enforce
  on_error: block
  timeout: 1000ms
  mandatory: false
  redaction: placeholder
  restore: false
  streams: window
- name: judge
  type: webhook
  stage: input
  action: block
  mode: enforce
  on_error: block
  timeout: 1000ms
  mandatory: false
  redaction: placeholder
  restore: false
  streams: buffer
  url: https://judge.example/v1
  headers:
    authorization: '***'
  retries: 1
  cache: 0ms
  scope: conversation
  max_concurrent: 64
  breaker:
    failures: 5
    open_for: 10000ms
"""
LOOSE = "name: loose\nunscanned: allow\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policies.yaml"
    path.write_text(STRICT)
    return path


def apply(egret: Egret, file: Path, text: str, *options: str) -> Ran:
    file.write_text(text)
    return egret("policy", "apply", "-f", str(file), "--yes", *options)


def test_a_new_policy_is_shown_as_added_and_comes_into_force(egret: Egret, file: Path) -> None:
    """The plan first, then the version; credentials in neither."""
    ran = egret("policy", "apply", "-f", str(file), "--yes")

    added = "".join(f"+{line}\n" for line in STRICT_SHOWN.splitlines())
    assert ran == Ran(
        0,
        f"--- strict version 0\n+++ strict version 1\n@@ -0,0 +1,35 @@\n{added}",
        "strict: version 1 is stored; no worker is running\n",
    )
    assert egret("policy", "show", "strict") == Ran(0, STRICT_SHOWN, "strict, version 1\n")


def test_a_change_is_shown_as_a_difference_of_meaning(egret: Egret, file: Path) -> None:
    """One line differs; comments and defaults written out do not count."""
    apply(egret, file, LOOSE)

    same = apply(egret, file, "# a comment\nname: loose\nunscanned: allow\nguardrails: []\n")
    changed = apply(egret, file, "name: loose\nunscanned: flag\n")

    assert same == Ran(0, "", "loose: no change, version 1 stays\n")
    assert changed.out == (
        "--- loose version 1\n+++ loose version 2\n@@ -1,3 +1,3 @@\n"
        " name: loose\n-unscanned: allow\n+unscanned: flag\n guardrails: []\n"
    )
    assert changed.err == "loose: version 2 is stored; no worker is running\n"


def test_a_changed_credential_is_a_change_that_shows_no_value(egret: Egret, file: Path) -> None:
    """Neither the old nor the new one."""
    apply(egret, file, STRICT)

    ran = apply(egret, file, STRICT.replace("hunter2", "hunter3"))

    assert ran == Ran(
        0,
        "  strict: values of headers, which are not shown\n",
        "strict: version 2 is stored; no worker is running\n",
    )


def test_earlier_versions_stay_readable(egret: Egret, file: Path) -> None:
    """By number, the one in force by default."""
    apply(egret, file, LOOSE)
    apply(egret, file, "name: loose\nunscanned: flag\n")

    first = egret("policy", "show", "loose", "--version", "1", "-o", "json").json
    latest = egret("policy", "show", "loose", "-o", "json").json

    assert first == {
        "name": "loose",
        "version": 1,
        "document": "name: loose\nunscanned: allow\nguardrails: []\n",
    }
    assert (latest["version"], "unscanned: flag" in latest["document"]) == (2, True)


def test_a_file_of_several_policies_is_applied_as_one(egret: Egret, file: Path) -> None:
    """JSON says what became of each."""
    apply(egret, file, LOOSE)

    ran = apply(egret, file, f"{LOOSE}---\n{STRICT}", "-o", "json")

    rows = [
        (row["name"], row["change"], row["from_version"], row["to_version"]) for row in ran.json
    ]
    assert rows == [("loose", "none", 1, 1), ("strict", "create", 0, 1)]


def test_policies_are_listed_with_who_binds_them(egret: Egret, file: Path) -> None:
    """Organizations, teams and keys that name it; a revoked key does not count."""
    apply(egret, file, LOOSE)
    egret.prepare(
        "orgs create acme --policy loose",
        "teams create search --org acme",
        "keys create --team search --name one --policy loose",
    )
    gone = egret(
        "keys", "create", "--team", "search", "--name", "two", "--policy", "loose", "-o", "json"
    ).json["key_id"]
    egret("keys", "revoke", gone)

    lines = egret("policy", "list").lines

    assert [re.sub(r"\d{4}-[-\d]+ [:\d]+Z", "TIME", line) for line in lines] == [
        "name|version|applied at|organizations|teams|keys",
        "loose|1|TIME|1|0|1",
    ]


def test_a_typo_names_its_place_and_leaves_the_old_policy_in_force(
    egret: Egret, file: Path
) -> None:
    """Line and column of each fault, nothing on standard output, exit code 1."""
    apply(egret, file, LOOSE)

    unknown = "guardrail: unknown field `guardrail` (did you mean `guardrails`?)"

    ran = apply(egret, file, "name: loose\nunscanned: alow\nguardrail: []\n")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == [
        f"{file}: line 2, column 12: unscanned: must be one of block, flag, allow",
        f"{file}: line 3, column 1: {unknown}",
        f"error: {file} holds no valid policies; correct the faults above",
    ]
    assert "unscanned: allow" in egret("policy", "show", "loose").out
    assert [row["version"] for row in egret("policy", "list", "-o", "json").json] == [1]


def test_a_file_with_one_bad_policy_applies_none(egret: Egret, file: Path) -> None:
    """All or nothing."""
    assert apply(egret, file, f"{LOOSE}---\nname: strict\nguardrails: 1\n").code == 1

    assert egret("policy", "list", "-o", "json").json == []


def test_a_difference_is_shown_and_nothing_applied(egret: Egret, file: Path) -> None:
    """As a diff, or as JSON."""
    file.write_text(LOOSE)

    shown = egret("policy", "diff", "-f", str(file))
    rows = egret("policy", "diff", "-f", "-", "-o", "json", stdin=LOOSE).json

    expected = (
        "--- loose version 0\n+++ loose version 1\n@@ -0,0 +1,3 @@\n"
        "+name: loose\n+unscanned: allow\n+guardrails: []\n"
    )
    assert shown == Ran(0, expected, "")
    assert rows == [
        {
            "name": "loose",
            "change": "create",
            "from_version": 0,
            "to_version": 1,
            "diff": expected,
            "lost": [],
        }
    ]
    assert egret("policy", "list", "-o", "json").json == []


def test_without_a_terminal_apply_asks_nobody_and_does_nothing(egret: Egret, file: Path) -> None:
    """A script must pass --yes."""
    file.write_text(LOOSE)

    ran = egret("policy", "apply", "-f", str(file))

    assert (ran.code, ran.err) == (
        2,
        "error: cannot ask for confirmation without a terminal; pass --yes\n",
    )
    assert egret("policy", "list", "-o", "json").json == []


def test_the_built_in_default_can_be_shown_before_it_is_replaced(egret: Egret, file: Path) -> None:
    """`default` holds where nothing is bound, so it is never «not there»."""
    built_in = egret("policy", "show", "default")
    apply(egret, file, "name: default\n")

    assert (built_in.code, built_in.err, "type: pii" in built_in.out) == (0, "built in\n", True)
    assert egret("policy", "show", "default").err == "default, version 1\n"


def test_a_first_default_is_compared_with_the_built_in_policy(egret: Egret, file: Path) -> None:
    """Guardrails that it drops are lines of the difference, and a warning by name."""
    ran = apply(egret, file, "name: default\nguardrails: [{name: keys, type: secrets}]\n")
    again = apply(egret, file, "name: default\nguardrails: [{name: keys, type: pii}]\n")

    assert ran.out.startswith("--- default built in\n+++ default version 1\n")
    assert "-  type: prompt_injection\n" in ran.out
    assert ran.err.splitlines()[0] == (
        "warning: pii and prompt-injection no longer hold for keys without a policy"
    )
    assert again.err.splitlines()[0] == ("warning: keys no longer holds for keys without a policy")


def test_the_built_in_default_can_be_stored_as_it_is(egret: Egret, file: Path) -> None:
    """As version 1, without a difference or a warning."""
    ran = apply(egret, file, default_policy_text())

    assert ran == Ran(
        0, "  default: as built in\n", "default: version 1 is stored; no worker is running\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        pytest.param(
            "show nope", 1, "there is no policy nope; see `egret policy list`", id="no such policy"
        ),
        pytest.param(
            "show default --version 7",
            1,
            "there is no version 7 of policy default; see `egret policy history default`",
            id="no such version",
        ),
        pytest.param(
            "apply -f nope.yaml",
            2,
            "nope.yaml: No such file or directory; name a file that can be read",
            id="no such file",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    egret: Egret, arguments: str, code: int, error: str
) -> None:
    """What is wrong, then what would be right."""
    assert egret("policy", *arguments.split()) == Ran(code, "", f"error: {error}\n")


def test_a_file_that_is_no_text_is_refused(egret: Egret, file: Path) -> None:
    """The first byte that is not UTF-8 is named."""
    file.write_bytes(b"name: \xff")

    assert egret("policy", "diff", "-f", str(file)) == Ran(
        1, "", f"error: {file}: byte 6 is not UTF-8; save it as UTF-8\n"
    )
