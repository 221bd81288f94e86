from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Egret, Ran

NOWHERE = Egret("postgresql://nobody@127.0.0.1:1/none")
PLANTED = "the heron of bob@example.com"
BEFORE = """\
name: before
guardrails:
  - {name: mail, type: pii, types: [EMAIL], action: redact}
"""
NOW = """\
name: now
unscanned: flag
allowed_models: ["gpt-*"]
guardrails:
  - {name: mail, type: pii, types: [EMAIL], action: flag, rollout: 1%}
  - {name: words, type: denied_terms, terms: [heron], models: [gpt-big]}
  - {name: counts, type: denied_terms, terms: [tern], routes: [count_tokens]}
  - {name: later, type: denied_terms, terms: [gull], mode: shadow}
  - {name: judge, type: webhook, url: "http://127.0.0.1:9/"}
"""


def chat(text: str, model: str = "gpt-small") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def kept(body: object, path: str = "/v1/chat/completions", **more: str) -> str:
    return json.dumps({"path": path, "body": body, **more})


LINES = (
    json.dumps(chat("hello")),
    kept(chat(PLANTED), id="a"),
    kept(chat(PLANTED, "gpt-big"), id="b"),
    "",
    kept(json.dumps(chat("hello", "other"))),
    kept(chat("a tern and a gull"), id="c"),
    kept(chat("a tern"), "/v1/messages/count_tokens"),
    kept("no json"),
    kept({"x": 1}, "/v1/unheard-of"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "requests.jsonl").write_text("\n".join(LINES))
    (tmp_path / "before.yaml").write_text(BEFORE)
    (tmp_path / "now.yaml").write_text(NOW)
    return tmp_path


def replayed(folder: Path, *more: str) -> Ran:
    requests, policy = folder / "requests.jsonl", folder / "now.yaml"
    return NOWHERE("replay", str(requests), "--policy-file", str(policy), *more)


def counts(rows: list[dict[str, Any]], which: str, *names: str) -> dict[str, int]:
    return {"/".join(one[name] for name in names): one[which] for one in rows if one[which]}


def test_kept_requests_are_judged_as_in_an_exchange_and_no_text_is_shown(folder: Path) -> None:
    """By route and model, which an unknown path has none of; roll-outs count as complete."""
    ran = replayed(folder, "--before-file", str(folder / "before.yaml"), "-o", "json")

    assert ran.code == 0, ran
    assert (ran.json["policy"], ran.json["before"], ran.json["requests"]) == ("now", "before", 8)
    assert ran.json["not_asked"] == ["judge"]
    assert counts(ran.json["outcomes"], "requests", "outcome") == {
        "allowed": 2,
        "flagged": 1,
        "refused (content_blocked)": 2,
        "refused (invalid_body)": 1,
        "refused (model_not_allowed)": 2,
    }
    assert counts(ran.json["outcomes"], "before", "outcome") == {
        "allowed": 4,
        "redacted": 2,
        "refused (invalid_body)": 1,
        "refused (unknown_url)": 1,
    }
    assert counts(ran.json["guardrails"], "requests", "guardrail", "mode", "verdict") == {
        "counts/enforce/block": 1,
        "later/shadow/block": 1,
        "mail/enforce/flag": 2,
        "words/enforce/block": 1,
    }
    changed = {one["line"]: (one["id"], one["guardrails"]) for one in ran.json["changed"]}
    assert changed == {
        2: ("a", ["mail"]),
        3: ("b", ["mail", "words"]),
        5: (None, []),
        7: (None, ["counts"]),
        9: (None, []),
    }
    assert "heron" not in ran.out + ran.err
    assert "bob" not in ran.out + ran.err


def test_a_change_can_fail_the_command_and_tables_show_it(folder: Path) -> None:
    """For a pipeline that applies policies."""
    before = ("--before-file", str(folder / "before.yaml"))

    changed = replayed(folder, *before, "--fail-on-change", "--show", "1")
    same = replayed(folder, "--before-file", str(folder / "now.yaml"), "--fail-on-change")
    alone = replayed(folder)

    assert (changed.code, same.code, alone.code) == (1, 0, 0)
    assert "5 of 8 requests would be decided differently" in changed.err
    assert "0 of 8 requests would be decided differently" in same.err
    assert "before" in changed.out
    assert "before" not in alone.out


def test_lines_that_are_no_requests_are_named_and_the_others_are_judged(folder: Path) -> None:
    """The exit code says so as well."""
    lines = ("{", "[]", '{"path": 1, "body": {}}', json.dumps(chat("hello")))
    (folder / "requests.jsonl").write_text("\n".join(lines))

    ran = replayed(folder, "-o", "json")

    assert ran.code == 1
    assert ran.json["requests"] == 1
    assert [one["line"] for one in ran.json["bad_lines"]] == [1, 2, 3]


def test_a_file_without_requests_does_not_pass(folder: Path) -> None:
    """A pipeline would take it for requests that are decided as before."""
    (folder / "requests.jsonl").write_text("\n")

    ran = replayed(folder, "--fail-on-change", "-o", "json")

    assert (ran.code, ran.json["requests"]) == (1, 0)
    assert "requests.jsonl holds no request; name" in ran.err


def test_a_file_that_cannot_be_read_is_wrong_usage(folder: Path) -> None:
    """In a line, with what to do."""
    (folder / "requests.jsonl").unlink()

    ran = replayed(folder)

    assert ran.code == 2
    assert "name a file that can be read" in ran.err
