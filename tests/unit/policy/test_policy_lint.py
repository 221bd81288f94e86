from __future__ import annotations

import importlib.util
from datetime import date

import pytest

from sidecar.policy.parse import default_policy, parse_policies
from sidecar.policy.policy_lint import LintWarning, lint, lost_protection, missing_extras

TODAY = date(2026, 11, 25)
PATTERN = (
    "name: p\nguardrails:\n"
    "  - {{name: a, type: denied_patterns, patterns: [{{name: X, regex: '{}'}}]}}\n"
)

ALIAS = "aliases: {fast: gpt-5-mini}\n"


def codes(text: str) -> list[tuple[str, str | None, str]]:
    found = lint(parse_policies(text), today=TODAY)
    return [(one.policy, one.guardrail, one.code) for one in found]


def one(fields: str) -> str:
    return f"name: p\nguardrails: [{{name: z, type: secrets}}, {{name: a, type: pii, {fields}}}]"


def structured(fields: str) -> str:
    return f"name: p\nguardrails: [{{name: a, type: json_schema, {fields}}}]"


def excepting(until: str) -> str:
    return one(f"exceptions: [{{team: acme/search, until: {until}, reason: SEC-1}}]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: p", [("p", None, "no-guardrails")]),
        (
            "name: p\nguardrails: [{name: a, type: pii, mode: shadow}]",
            [("p", None, "shadow-only")],
        ),
        (
            "name: p\nunscanned: allow\nguardrails: [{name: a, type: pii}]",
            [("p", None, "unscanned-allow")],
        ),
        (one("on_error: allow"), [("p", "a", "open-on-error")]),
        (one("on_error: allow, action: flag"), []),
        (one("on_error: allow, mode: shadow"), []),
        (one("mode: shadow, mandatory: true"), [("p", "a", "mandatory-shadow")]),
        (one("rollout: 0%"), [("p", "a", "rolled-out-to-none")]),
        (
            one("routes: [chat]"),
            [("p", "a", "count-tokens-open"), ("p", "a", "chat-elsewhere-open")],
        ),
        (one("routes: [chat, count_tokens]"), [("p", "a", "chat-elsewhere-open")]),
        (
            one("routes: [chat, count_tokens, generate_content]"),
            [("p", "a", "chat-elsewhere-open")],
        ),
        (one("routes: [chat, count_tokens, generate_content, invoke_model]"), []),
        (one("routes: [embeddings]"), []),
        (PATTERN.format("PRJ-[0-9]{4}"), [("p", "a", "no-word-boundary")]),
        (PATTERN.format("(?i)project"), [("p", "a", "no-word-boundary")]),
        (PATTERN.format(r"\bPRJ-[0-9]{4}\b"), []),
        (PATTERN.format(r"^PRJ-[0-9]{4}$"), [("p", "a", "searched-everywhere")]),
        (PATTERN.format(r"\bÜbergabe\b"), [("p", "a", "ascii-word-boundary")]),
        (PATTERN.format(r"\bCafé\b"), [("p", "a", "ascii-word-boundary")]),
        (PATTERN.format(r"\bCaféteria\b"), []),
        (one("restore: true"), [("p", "a", "without-effect")]),
        (one("action: flag, redaction: hash"), [("p", "a", "without-effect")]),
        (one("action: redact, restore: true, redaction: hash"), []),
        ("allowed_models: []\n" + one(""), [("p", None, "no-models")]),
        ("allowed_models: [fast]\n" + ALIAS + one(""), [("p", None, "alias-not-allowed")]),
        ("allowed_models: ['gpt-*']\n" + ALIAS + one(""), []),
        (ALIAS + one("models: [FAST]"), [("p", "a", "selects-alias")]),
        (ALIAS + one("models: [gpt-5-mini]"), []),
        (structured("schema: {type: object}"), [("p", "a", "schema-open")]),
        (structured("schema: {type: object, additionalProperties: false}"), []),
        (structured("schema: {type: array, items: {type: string}}"), []),
        (
            structured("of: arguments, schema: {additionalProperties: false}"),
            [("p", "a", "schema-for-every-tool")],
        ),
        (structured("of: arguments, tools: [f], schema: {additionalProperties: false}"), []),
        (excepting("2026-11-24"), [("p", "a", "exception-over")]),
        (excepting("2026-11-25"), [("p", "a", "exception-ends")]),
        (excepting("2026-12-09"), [("p", "a", "exception-ends")]),
        (excepting("2026-12-10"), []),
    ],
)
def test_what_is_probably_not_meant_is_told(
    text: str, expected: list[tuple[str, str | None, str]]
) -> None:
    """Each by a stable code; what is usual is not told of."""
    assert codes(text) == expected


def test_a_guardrail_beside_a_mandatory_one_of_its_name_is_reported() -> None:
    """Wherever both policies are bound; a copy of it is left out there."""
    above = "name: org\nguardrails: [{name: a, type: pii, mandatory: true}]"

    assert codes(f"{above}\n---\n{one('action: redact')}") == [("p", "a", "beside-mandatory")]
    assert codes(f"{above}\n---\n{one('action: block')}") == []


@pytest.mark.parametrize(
    ("until", "within"),
    [("2026-11-28", "in 3 days"), ("2026-11-26", "in 1 day"), ("2026-11-25", "today")],
)
def test_advice_says_what_would_be_right(until: str, within: str) -> None:
    """In words for whoever wrote the policy."""
    assert lint(parse_policies(excepting(until)), today=TODAY) == (
        LintWarning(
            policy="p",
            guardrail="a",
            code="exception-ends",
            problem=f"the exception for team acme/search (SEC-1) ends on {until}, {within}",
            hint="see whether it is still needed",
        ),
    )


def test_there_is_nothing_to_say_about_the_built_in_policy() -> None:
    """It is what a fresh installation starts from."""
    assert lint((default_policy(),), today=TODAY) == ()


@pytest.mark.parametrize(
    ("fields", "missing", "expected"),
    [
        ("type: language, allowed: [en]", {"language": "language"}, ["package-missing"]),
        ("type: max_tokens, max_tokens: 9", {"max_tokens": "tokens"}, ["package-missing"]),
        ("type: max_tokens, max_tokens: 9", {"language": "language"}, []),
        ("type: language, allowed: [en]", {}, []),
    ],
)
def test_a_guardrail_that_lacks_its_package_is_told_of(
    fields: str, missing: dict[str, str], expected: list[str]
) -> None:
    """With the extra to install; nothing where it is there."""
    policies = parse_policies(f"name: p\nguardrails: [{{name: a, {fields}}}]")
    found = lint(policies, today=TODAY, missing=missing)

    assert [one.code for one in found] == expected
    assert all(f"its extra {extra}" in one.hint for one in found for extra in missing.values())


def test_packages_are_looked_for_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes half a second and 145 MB."""
    assert missing_extras() == {}
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    assert missing_extras() == {"language": "language", "max_tokens": "tokens"}


@pytest.mark.parametrize(
    ("guardrails", "lost"),
    [
        ("[]", ("secrets", "likely-secrets", "pii", "prompt-injection")),
        ("[{name: keys, type: secrets}, {name: p, type: pii}]", ("prompt-injection",)),
        (
            (
                "[{name: s, type: secrets, mode: shadow}, {name: p, type: pii, action: flag},"
                " {name: i, type: prompt_injection, mode: shadow}]"
            ),
            ("secrets", "likely-secrets", "pii"),
        ),
        (
            (
                "[{name: s, type: secrets, stage: output}, {name: p, type: pii, action: redact},"
                " {name: i, type: prompt_injection}]"
            ),
            ("secrets", "likely-secrets"),
        ),
    ],
)
def test_a_default_policy_that_drops_a_built_in_guardrail_is_reported(
    guardrails: str, lost: tuple[str, ...]
) -> None:
    """By type, whatever its name; one in shadow or for answers does not stand in for it."""
    (policy,) = parse_policies(f"name: default\nguardrails: {guardrails}")
    found = [one for one in lint([policy], today=TODAY) if one.code == "default-unprotected"]

    assert lost_protection(policy) == lost
    assert len(found) == 1
    assert all(name in found[0].problem for name in lost)


def test_the_built_in_policy_and_policies_of_other_names_lose_nothing() -> None:
    """They take nothing from keys without a policy."""
    found = lint([default_policy(), *parse_policies("name: other")], today=TODAY)

    assert "default-unprotected" not in [one.code for one in found]
