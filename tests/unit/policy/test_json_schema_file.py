from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sidecar.policy.json_schema_file import policy_schema, policy_schema_text
from sidecar.policy.parse import default_policy_text

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "guardrails.md").read_text(encoding="utf-8")
VALIDATOR = jsonschema.Draft202012Validator(policy_schema())


def documents(text: str) -> list[Any]:
    """Read as editors do, with dates as text."""

    class Loader(yaml.SafeLoader):
        """Without YAML's own dates."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if not tag.endswith("timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return [one for one in yaml.load_all(text, Loader) if one is not None]


def problems(text: str) -> list[str]:
    return [error.json_path for one in documents(text) for error in VALIDATOR.iter_errors(one)]


def test_the_published_schema_is_current() -> None:
    """Write it anew with `egret policy schema > docs/policy.schema.json`."""
    published = (ROOT / "docs" / "policy.schema.json").read_text(encoding="utf-8")

    assert published == policy_schema_text()
    jsonschema.Draft202012Validator.check_schema(policy_schema())


@pytest.mark.parametrize(
    "text",
    [
        default_policy_text(),
        (ROOT / "tools" / "egret_tools" / "devstack" / "demo_policies.yaml").read_text(
            encoding="utf-8"
        ),
        *(
            block
            for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
            if block.startswith(("name:", "# yaml-language-server"))
        ),
    ],
)
def test_our_own_policies_are_valid_by_the_schema(text: str) -> None:
    """The built-in one, that of the demo, and whole ones in the documentation."""
    assert documents(text)
    assert problems(text) == []


@pytest.mark.parametrize(
    ("guardrail", "place"),
    [
        ("{name: a, type: pii, timeout: 250ms, rollout: 0.5%}", None),
        ("{name: a, type: pii, timeout: 1.5, routes: [chat], models: ['gpt*']}", None),
        (
            ("{name: a, type: pii, exceptions: [{team: a/b, until: 2027-01-31, reason: x}]}"),
            None,
        ),
        ("{name: a, type: pii, types: [EMIAL]}", "$.guardrails[0].types"),
        ("{name: a, type: pii, rollout: 10}", "$.guardrails[0].rollout"),
        ("{name: a, type: pii, timeout: soon}", "$.guardrails[0].timeout"),
        ("{name: a, type: pii, acton: flag}", "$.guardrails[0]"),
        ("{name: a, type: denied_terms}", "$.guardrails[0]"),
        ("{name: a, type: nonsense}", "$.guardrails[0].type"),
        ("{name: a}", "$.guardrails[0]"),
    ],
)
def test_an_editor_is_told_of_what_apply_would_refuse(guardrail: str, place: str | None) -> None:
    """By the shape of the document; expressions are not its business."""
    found = problems(f"name: p\nguardrails: [{guardrail}]\n")

    assert found == ([] if place is None else [place])


def test_an_unknown_type_is_answered_with_the_types_there_are() -> None:
    """An editor that says «not valid under any of the schemas» helps nobody."""
    (error,) = VALIDATOR.iter_errors({"name": "p", "guardrails": [{"name": "a", "type": "pi"}]})

    assert "'pi' is not one of ['secrets', 'pii', 'prompt_injection', " in error.message


def test_every_field_is_described() -> None:
    """An editor shows it beside the completion."""
    schema = policy_schema()
    bare = [
        f"{title}.{name}"
        for title, definition in [("policy", schema), *schema["$defs"].items()]
        for name, described in definition.get("properties", {}).items()
        if not described.get("description")
    ]

    assert bare == []
