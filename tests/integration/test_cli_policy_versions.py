from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database
from tests.support.web_app import served

FIRST = "name: loose\nunscanned: allow\n"
SECOND = "name: loose\nunscanned: flag\n"
SHADOW = """\
# kept as it is
name: cards
guardrails:
  - name: cards   # the bank's
    type: pii
    types: [CREDIT_CARD]
    mode: shadow
  - {name: mail, type: pii, types: [EMAIL], action: redact}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policies.yaml"


def apply(egret: Egret, file: Path, text: str, *options: str) -> Ran:
    file.write_text(text)
    ran = egret("policy", "apply", "-f", str(file), "--yes", *options)
    assert ran.code == 0, ran
    return ran


def in_force(egret: Egret, name: str) -> tuple[int, str]:
    shown = egret("policy", "show", name, "-o", "json").json
    return shown["version"], shown["document"]


def test_the_history_tells_who_brought_each_version_and_why(egret: Egret, file: Path) -> None:
    """The latest first; the database knows who was logged in."""
    apply(egret, file, FIRST)
    file.write_text(SECOND)
    egret(
        "--as", "ann", "policy", "apply", "-f", str(file), "-y", "-m", "images are seen from now"
    )

    rows = egret("policy", "history", "loose", "-o", "json").json

    assert [(row["version"], row["in_force"], row["note"]) for row in rows] == [
        (2, True, "images are seen from now"),
        (1, False, None),
    ]
    assert rows[0]["author"] == "ann"
    assert rows[1]["author"]
    assert all(row["database_role"] and row["applied_at"] for row in rows)
    assert (
        egret("policy", "history", "loose").lines[0] == "version|in force|applied at|author|note"
    )


def test_a_rollback_is_a_new_version_that_says_where_it_comes_from(
    egret: Egret, file: Path
) -> None:
    """The one before by default; nothing is ever taken out of the history."""
    apply(egret, file, FIRST)
    apply(egret, file, SECOND)

    ran = egret("policy", "rollback", "loose", "--yes")

    assert ran == Ran(
        0,
        "--- loose version 2\n+++ loose version 3\n@@ -1,3 +1,3 @@\n"
        " name: loose\n-unscanned: flag\n+unscanned: allow\n guardrails: []\n",
        "loose: version 3 is stored; no worker is running\n",
    )
    rows = egret("policy", "history", "loose", "-o", "json").json
    assert (rows[0]["version"], rows[0]["note"]) == (3, "rollback to version 1")
    assert egret("policy", "rollback", "loose", "--to", "3", "-y").err == (
        "loose: no change, version 3 stays\n"
    )


def test_versions_are_compared_with_each_other(egret: Egret, file: Path) -> None:
    """By default the one in force with the one before it."""
    apply(egret, file, FIRST)
    apply(egret, file, SECOND)
    apply(egret, file, "name: loose\n")
    changed = "@@ -1,3 +1,3 @@\n name: loose\n-unscanned: {}\n+unscanned: {}\n guardrails: []\n"

    latest = egret("policy", "diff", "loose")
    whole = egret("policy", "diff", "loose", "--from", "1", "--to", "2", "-o", "json").json

    assert latest == Ran(
        0, "--- loose version 2\n+++ loose version 3\n" + changed.format("flag", "block"), ""
    )
    assert whole == {
        "name": "loose",
        "from_version": 1,
        "to_version": 2,
        "diff": "--- loose version 1\n+++ loose version 2\n" + changed.format("allow", "flag"),
    }


def test_a_dry_run_checks_and_changes_nothing(egret: Egret, file: Path) -> None:
    """Without asking; the difference is shown as if."""
    file.write_text(FIRST)

    ran = egret("policy", "apply", "-f", str(file), "--dry-run")

    assert (ran.code, ran.err) == (0, "Nothing was changed: this was a dry run.\n")
    assert "+unscanned: allow" in ran.out
    assert egret("policy", "list", "-o", "json").json == []


def test_a_guardrail_is_promoted_and_demoted_in_the_author_s_own_text(
    egret: Egret, file: Path
) -> None:
    """One word changes; comments stay. With results unknown, --yes alone promotes nothing."""
    apply(egret, file, SHADOW)
    nowhere = "http://127.0.0.1:1/metrics"

    misspelt = egret("policy", "promote", "card", "cards", "--metrics", nowhere, "--yes")
    no_guardrail = egret("policy", "promote", "cards", "card", "--metrics", nowhere, "--dry-run")
    refused = egret("policy", "promote", "cards", "cards", "--metrics", nowhere, "--yes")
    tried = egret("policy", "promote", "cards", "cards", "--metrics", nowhere, "--dry-run")
    promoted = egret("policy", "promote", "cards", "cards", "--yes", "--without-results")
    demoted = egret("policy", "demote", "cards", "mail", "--yes", "-m", "false alarms")

    assert misspelt.err == "error: there is no policy card; see `egret policy list`\n"
    assert (no_guardrail.code, no_guardrail.err.count("\n")) == (1, 1)
    assert no_guardrail.err.startswith("error: ")
    assert "-  mode: shadow\n+  mode: enforce\n" in promoted.out
    unknown = f"its results in shadow are unknown: no metrics at {nowhere}"
    assert (refused.code, refused.err) == (
        1,
        f"error: {unknown}; nothing was changed: pass --metrics URL, or --without-results\n",
    )
    assert (tried.code, tried.err) == (
        0,
        f"warning: {unknown} (pass --metrics URL)\nNothing was changed: this was a dry run.\n",
    )
    assert promoted.err == "cards: version 2 is stored; no worker is running\n"
    assert "+  mode: shadow\n" in demoted.out
    rows = egret("policy", "history", "cards", "-o", "json").json
    assert [row["note"] for row in rows] == ["false alarms", "promote cards", None]
    shown = in_force(egret, "cards")[1]
    assert [line for line in shown.splitlines() if "mode:" in line] == [
        "  mode: enforce",
        "  mode: shadow",
    ]


def test_the_version_before_is_the_last_one_that_is_kept(
    egret: Egret, database: Database, file: Path
) -> None:
    """Versions of a policy that was deleted are not, and their numbers are not used again."""
    apply(egret, file, FIRST)
    asyncio.run(database.execute("DELETE FROM policies"))
    anew = apply(egret, file, SECOND)

    ran = egret("policy", "rollback", "loose")
    apply(egret, file, FIRST)
    difference = egret("policy", "diff", "loose")

    assert anew.err == "loose: version 2 is stored; no worker is running\n"
    assert ran.err == (
        "error: there is no version of loose before 2; see `egret policy history`\n"
    )
    assert difference.out.startswith("--- loose version 2\n+++ loose version 3\n")


def test_what_is_in_the_wanted_mode_already_stays(egret: Egret, file: Path) -> None:
    """No new version for nothing."""
    apply(egret, file, SHADOW)

    ran = egret("policy", "demote", "cards", "cards", "--yes")

    assert ran == Ran(0, "", "cards: no change, version 1 stays\n")


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ("history nope", 1, "there is no policy nope; see `egret policy list`"),
        ("rollback nope", 1, "there is no policy nope; see `egret policy list`"),
        (
            "rollback cards",
            1,
            "there is no version of cards before 1; see `egret policy history`",
        ),
        (
            "rollback cards --to 7",
            1,
            "there is no version 7 of policy cards; see `egret policy history cards`",
        ),
        (
            "demote cards nope -y",
            1,
            "policy cards has no guardrail nope; see `egret policy show cards`",
        ),
        (
            "diff",
            2,
            "nothing to compare; give -f FILE, or the name of a policy and its versions",
        ),
        (
            "diff -f x.yaml --from 2",
            2,
            "nothing to compare; give -f FILE, or the name of a policy and its versions",
        ),
        (
            f"demote cards cards -y -m {'x' * 1001}",
            2,
            "that note is too long or empty; write at most 1000 characters",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    egret: Egret, file: Path, arguments: str, code: int, error: str
) -> None:
    """What is wrong, then what would be right."""
    apply(egret, file, SHADOW)

    assert egret("policy", *arguments.split()) == Ran(code, "", f"error: {error}\n")


def test_an_expression_that_the_matching_engine_cannot_compile_is_named_with_its_place(
    egret: Egret, file: Path
) -> None:
    """Each alone, in a process that is lost where one explodes; nothing is applied."""
    file.write_text(
        "name: codes\nguardrails:\n  - name: a\n    type: denied_patterns\n    patterns:\n"
        "      - {name: GOOD, regex: 'PRJ-[0-9]{4}'}\n"
        "      - {name: LARGE, regex: 'x.{999}y.{999}z'}\n"
        "      - {name: NESTED, regex: '(a{1,1000}){1,1000}'}\n"
    )

    nested = egret("policy", "apply", "-f", str(file), "--yes")
    file.write_text(file.read_text().replace("(a{1,1000}){1,1000}", "fine"))
    large = egret("policy", "apply", "-f", str(file), "--yes")

    assert (nested.code, large.code) == (1, 1)
    assert nested.err.splitlines()[0] == (
        f"{file}: line 8, column 31: guardrails[0].patterns[2].regex: "
        "not RE2 syntax: invalid repetition size: {1,1000}"
    )
    assert large.err.startswith(f"{file}: line 7, column 30: guardrails[0].patterns[1].regex: ")
    assert egret("policy", "list", "-o", "json").json == []


async def test_the_results_in_shadow_are_read_from_the_stack_that_runs_here(
    egret: Egret, file: Path, tmp_path: Path
) -> None:
    """Its file of facts says where; other settings than the defaults have the last word."""
    page = (
        "# TYPE egret_guardrail_verdicts counter\n"
        'egret_guardrail_verdicts_total{action="block",guardrail="cards",mode="shadow",'
        'verdict="block"} 3.0\n'
    )

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=page)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    await asyncio.to_thread(apply, egret, file, SHADOW)

    async with served(app) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        (tmp_path / "egret.json").write_text(json.dumps({"metrics_url": url}))
        ran = await asyncio.to_thread(
            egret, "policy", "promote", "cards", "cards", "--run", str(tmp_path), "--yes"
        )

    assert ran.code == 0
    assert ran.err.startswith("In shadow cards came to: block 3 ")
