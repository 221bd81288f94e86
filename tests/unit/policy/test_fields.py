from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from sidecar.domain.policy import GuardrailSettings
from sidecar.policy.documents import GUARDRAIL_DOCUMENTS
from sidecar.policy.parse import parse_policies

EXTRA_FIELDS = {
    "denied_patterns": "patterns: [{name: CODE, regex: 'PRJ-[0-9]'}]",
    "denied_terms": "terms: [bluebird]",
    "language": "allowed: [en]",
    "max_input": "max_characters: 10",
    "max_tokens": "max_tokens: 10",
    "json_schema": "stage: output, schema: {type: object}",
    "webhook": "url: 'https://h/'",
    "grpc": "url: 'grpcs://h:443'",
    "moderation": "url: 'https://h/'",
    "presidio": "url: 'https://h/'",
    "llm_judge": "url: 'https://h/', model: m, rubric: r",
}
"""Fields that a type requires."""


def test_every_type_of_settings_has_a_document_of_the_same_name() -> None:
    """A type of the domain that no policy can name would be dead code."""
    settings = {one.guardrail_type for one in get_args(GuardrailSettings)}
    assert settings == set(GUARDRAIL_DOCUMENTS)


@pytest.mark.parametrize("name", GUARDRAIL_DOCUMENTS)
def test_a_document_without_options_has_the_defaults_of_its_settings(name: str) -> None:
    """Both are written down: they must not drift apart."""
    extra = EXTRA_FIELDS.get(name)
    fields = f"name: a, type: {name}" + (f", {extra}" if extra else "")
    (policy,) = parse_policies(f"name: p\nguardrails:\n  - {{{fields}}}", expressions="trust")
    settings = policy.guardrails[0].settings

    assert settings.guardrail_type == name
    for one in dataclasses.fields(settings):
        if one.default is not dataclasses.MISSING:
            assert getattr(settings, one.name) == one.default
