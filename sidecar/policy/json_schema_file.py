"""The JSON Schema of policy documents, for editors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from sidecar.policy.documents import GUARDRAIL_DOCUMENTS, PolicyModel

_WORDS: Final = {
    "action": "The effect of a finding.",
    "aliases": "Models by a name of your own, such as {gpt-best: gpt-5-mini}.",
    "allowed": "What passes: codes of languages, or words that are no finding.",
    "allowed_models": "Globs of models; used if no key, team or organization sets its own.",
    "breaker": "The circuit breaker of the server: after failures in a row it is not asked.",
    "ca_file": "Certificates that the server's must be signed by, as PEM.",
    "cache": "How long verdicts on equal content are reused: 10m, 1h; 0 for never.",
    "categories": "Categories of the server that count; all where not given.",
    "cert_file": "Certificate of Egret for the server, as PEM; with `key_file`.",
    "credential": "Name of the provider's credential, for Envoy's routes.",
    "countries": "Countries whose national identifiers are looked for.",
    "entities": "Entities of Presidio that are looked for; all where not given.",
    "exceptions": "Keys and teams it is not for, up to and with a day.",
    "failures": "Failures in a row that open the breaker.",
    "guardrails": "The checks; the type of each decides on its other fields.",
    "headers": "Headers of each call, such as `authorization`; their values are never shown.",
    "hedge_after": "A second call is made if the first has no answer by then: 100ms.",
    "indirect_threshold": "The same for results of tools; `threshold` where not given.",
    "key": "The public id of a key, 12 letters and digits.",
    "key_file": "Private key for `cert_file`, as PEM.",
    "kinds": "Kinds of attack that count; all where not given.",
    "language": "Language of the texts, as two letters.",
    "languages": "Programming languages that are looked for.",
    "mandatory": "Cannot be loosened by a policy bound at a lower level.",
    "max_bytes": "Longest answer that is validated.",
    "max_characters": "Most characters of a request.",
    "max_concurrent": "Most calls of a worker at the same time.",
    "max_depth": "Deepest nesting of an answer that is validated.",
    "max_tokens": "Most tokens of a request.",
    "min_score": "Least score of a finding, 0 to 1.",
    "mode": "`shadow` judges and reports, and changes nothing.",
    "model": "The model that calls of the server request.",
    "models": "Globs of the models it is for, in any case; every one where not given.",
    "name": "Lower case; once per policy. Appears in refusals, spans and metrics.",
    "of": "The part of an answer: its content, or the arguments of tool calls.",
    "on_error": "The direction if the guardrail cannot judge, time limit included.",
    "open_for": "How long an open breaker lets no call through.",
    "order": "Providers in the order they are tried, for Envoy's routes.",
    "patterns": "Regular expressions in RE2 syntax, each with the type of its finding.",
    "private_addresses": "Addresses of private networks count as well.",
    "provider": "Names that Envoy's routes choose a provider by.",
    "reason": "Why; shown by `egret policy lint` near its end.",
    "redaction": "The form of the replacement for a removed value.",
    "regex": "RE2 syntax: no look-around, no back-references.",
    "region": "Region of the provider, for Envoy's routes.",
    "regions": "Regions whose national telephone numbers are looked for.",
    "restore": "Placeholders in the answer are turned back for the client.",
    "restore_aliases": "Answers name the alias that was requested, not its model.",
    "retries": "Further calls after a failure that is worth one.",
    "rollout": "Share of the keys it is for, such as 10%; the same keys every time.",
    "routes": "Operations it is for; every one where not given.",
    "rubric": "The question to the model: which texts it must object to.",
    "schema": "JSON Schema of the answer.",
    "scope": "`message` calls the server for new messages only; verdicts on others are kept.",
    "stage": "Which side of the exchange it looks at.",
    "streams": "How a streamed answer is checked, or under `usage` how its tokens are counted.",
    "team": "ORGANIZATION/TEAM.",
    "terms": "Words and phrases, in any case.",
    "threshold": "How sure it must be: `high` finds less and errs less.",
    "thresholds": "Least score by category; the server's own flag where not given.",
    "tiers": "`strict` has a form of its own, `likely` may be an example; both where not given.",
    "timeout": "Of a guardrail that asks a server: 500ms, 2s or seconds, at most 30.",
    "tools": "Tools whose arguments are validated; all where not given.",
    "type": "The kind of guardrail.",
    "types": "Types that are looked for; all where not given.",
    "uncounted": "The action on a request whose use its limits cannot count.",
    "unscanned": "The action on content that no guardrail can read.",
    "until": "The last day of the exception, such as 2027-01-31.",
    "url": "Address of the server.",
    "usage": "How tokens are counted.",
    "warn_on_volume": "Share of checks, such as 5%, above which a type of finding is reported.",
}
"""Descriptions of fields by name, as in docs/guardrails.md."""
_WORDS_WITHIN: Final = {
    "PatternDocument": {"name": "Type of the finding, in upper snake case such as PROJECT_CODE."},
}


def policy_schema() -> dict[str, Any]:
    """Return the schema of one document."""
    schema = PolicyModel.model_json_schema()
    definitions = schema["$defs"]
    for title, definition in (("", schema), *definitions.items()):
        words = _WORDS | _WORDS_WITHIN.get(title, {})
        for name, described in definition.get("properties", {}).items():
            described["description"] = words[name]
    for document in GUARDRAIL_DOCUMENTS.values():
        definitions[document.__name__]["properties"]["rollout"]["default"] = "100%"
    # Not `oneOf`: by that, a fault in a field is one of every type, and none has its place.
    schema["properties"]["guardrails"]["items"] = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(GUARDRAIL_DOCUMENTS), "description": _WORDS["type"]}},
        "allOf": [
            {
                "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                "then": {"$ref": f"#/$defs/{document.__name__}"},
            }
            for kind, document in GUARDRAIL_DOCUMENTS.items()
        ],
    }
    for node in nodes(schema):
        if isinstance(node.get("title"), str):
            del node["title"]
        if isinstance(node.get("discriminator"), dict):
            del node["discriminator"]  # OpenAPI's word, not JSON Schema's
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Egret policy",
        **schema,
    }


@cache
def policy_schema_text() -> str:
    """Return the schema as the repository holds it."""
    return json.dumps(policy_schema(), indent=1, ensure_ascii=False) + "\n"


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a schema, the innermost first."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from nodes(inner)
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)
