"""The JSON Schema of an installation's documents, for editors."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from sidecar.admin.installation.objects import DOCUMENTS, Kind
from sidecar.policy.json_schema_file import nodes, policy_schema

_WORDS: Final = {
    "above_tokens": "Tokens of input in a request beyond which the prices `..._above` hold.",
    "allowed_models": "Globs of models; the level above decides where not given.",
    "allowed_operations": "Operations such as chat; every one where not given.",
    "allowed_sources": "Networks clients may be in, such as 192.0.2.0/24; any where not given.",
    "burst": "How much of a second or minute at once.",
    "cache_write": "US dollars per million tokens written to the provider's cache.",
    "cache_write_above": "`cache_write` beyond `above_tokens`; as below where not given.",
    "cache_write_hour": "`cache_write` of tokens kept for an hour; as others where not given.",
    "cache_write_hour_above": "`cache_write_hour` beyond `above_tokens`; else as below.",
    "cached_input": "US dollars per million tokens read from the provider's cache.",
    "cached_input_above": "`cached_input` beyond `above_tokens`; as below where not given.",
    "channel": "The kind of receiver.",
    "digest": "Collects alerts into one message; critical ones are sent at once.",
    "enabled": "`false` refuses its keys, or sends nothing, until it is true again.",
    "expires_at": "When it stops being good, such as 2027-01-31T12:00:00Z; never where not given.",
    "id": "The public id of a key, 12 letters and digits.",
    "input": "US dollars per million tokens of input.",
    "input_above": "`input` beyond `above_tokens`; as below where not given.",
    "key": "The name of a field in the Secret, or of a file in its folder.",
    "limit": "MEASURE/WINDOW=AMOUNT, money in US dollars: requests/minute=600, cost/month=250.",
    "limits": "Limits in the words of `egret limits set`.",
    "model": "A model's name, or a glob.",
    "models": "Globs of the models it is for; every one where not given.",
    "name": "Lower case; of a team ORGANIZATION/TEAM.",
    "not_before": "When it becomes good.",
    "operations": "Operations it is for; every one where not given.",
    "organization": "Sends alerts of this organization alone; of all where not given.",
    "output": "US dollars per million tokens of output.",
    "output_above": "`output` beyond `above_tokens`; as below where not given.",
    "policy": "Name of the policy that is bound here.",
    "priority": "Who keeps capacity when a shared limit runs short.",
    "quiet_hours": "Hours without messages, such as 22:00-07:00; critical ones are sent.",
    "replaced_by": "The key that a rotation made of it.",
    "revoked_at": "When it was revoked, for good.",
    "rules": "Names of the rules it is for; every one where not given.",
    "secret": "Where the secret is: it is never in a document.",
    "severity": "The least severity that is sent.",
    "secret_sha256": "SHA-256 of the secret, 64 hexadecimal digits.",
    "tags": "For people and reports, such as env=prod.",
    "team": "ORGANIZATION/TEAM.",
    "time_zone": "Where days, weeks and months begin, or hours are counted.",
    "url": "Where a webhook is sent.",
    "valid_from": "When it begins to hold.",
}
"""Descriptions of fields by name, as in docs/gitops.md."""


def installation_schema() -> dict[str, Any]:
    """Return the schema of one document of any kind."""
    policy = policy_schema()
    definitions: dict[str, Any] = policy.pop("$defs")
    del policy["$schema"], policy["title"]
    variants = {Kind.POLICY: policy}
    for kind, document in DOCUMENTS.items():
        variants[kind] = document.model_json_schema()
        own = variants[kind].pop("$defs", {})
        for one in (variants[kind], *own.values()):
            for name, described in one.get("properties", {}).items():
                described["description"] = _WORDS[name]
        definitions |= own
    limit = definitions["LimitDocument"]
    definitions["LimitDocument"] = {"anyOf": [{"type": "string"}, limit]}
    for kind, variant in variants.items():
        variant["properties"] = {"kind": {"const": kind.value}, **variant["properties"]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Egret installation",
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": [kind.value for kind in Kind]}},
        # Not `oneOf`: by that, a fault in a field is one of every kind, and none has its place.
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind.value}}, "required": ["kind"]},
                "then": variants[kind],
            }
            for kind in Kind
        ],
        "$defs": definitions,
    }
    for node in nodes(schema["allOf"]):
        if isinstance(node.get("title"), str):
            del node["title"]
    for node in nodes(definitions):
        if isinstance(node.get("title"), str):
            del node["title"]
    return schema


@cache
def installation_schema_text() -> str:
    """Return the schema as `egret apply --schema` prints it."""
    return json.dumps(installation_schema(), indent=1, ensure_ascii=False) + "\n"
