"""The JSON Schema of policy documents, for editors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from sidecar.policy.documents import GUARDRAIL_DOCUMENTS, PolicyModel

_WORDS: Final = {
    "name": "Lower case; once per policy. Appears in refusals, spans and metrics.",
    "type": "The kind of guardrail.",
    "stage": "Which side of the exchange it looks at.",
    "action": "The effect of a finding.",
    "mode": "`shadow` judges and reports, and changes nothing.",
    "on_error": "The direction if the guardrail cannot judge, time limit included.",
    "timeout": "Of a guardrail that asks a server: 500ms, 2s or seconds, at most 30.",
    "mandatory": "Cannot be loosened by a policy bound at a lower level.",
    "redaction": "The form of the replacement for a removed value.",
    "restore": "Placeholders in the answer are turned back for the client.",
    "routes": "Operations it is for; every one where not given.",
    "models": "Globs of the models it is for, in any case; every one where not given.",
    "rollout": "Share of the keys it is for, such as 10%; the same keys every time.",
    "exceptions": "Keys and teams it is not for, up to and with a day.",
}
"""Descriptions of the fields that every guardrail has, as in docs/guardrails.md."""


def policy_schema() -> dict[str, Any]:
    """Return the schema of one document."""
    schema = PolicyModel.model_json_schema()
    definitions = schema["$defs"]
    for document in GUARDRAIL_DOCUMENTS.values():
        properties = definitions[document.__name__]["properties"]
        for name, words in _WORDS.items():
            properties[name]["description"] = words
        properties["rollout"]["default"] = "100%"
    for node in _nodes(schema):
        if isinstance(node.get("title"), str):
            del node["title"]
        if isinstance(node.get("discriminator"), dict):
            del node["discriminator"]  # OpenAPI's word, not JSON Schema's
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Egret policy",
        **schema,
    }


def policy_schema_text() -> str:
    """Return the schema as the repository holds it."""
    return json.dumps(policy_schema(), indent=1, ensure_ascii=False) + "\n"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _nodes(inner)
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)
