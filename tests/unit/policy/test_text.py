from __future__ import annotations

from sidecar.policy.parse import default_policy, parse_policies
from sidecar.policy.text import render_policy


def test_the_canonical_text_writes_out_every_default() -> None:
    """Two policies compare field by field, however tersely they were written."""
    assert render_policy(default_policy()) == (
        "name: default\n"
        "unscanned: block\n"
        "guardrails:\n"
        "- name: secrets\n"
        "  type: secrets\n"
        "  stage: input\n"
        "  action: block\n"
        "  mode: enforce\n"
        "  on_error: block\n"
        "  timeout: 1000ms\n"
        "  mandatory: false\n"
        "  redaction: placeholder\n"
        "  restore: false\n"
        "  streams: window\n"
        "  tiers:\n"
        "  - strict\n"
        "- name: likely-secrets\n"
        "  type: secrets\n"
        "  stage: input\n"
        "  action: redact\n"
        "  mode: enforce\n"
        "  on_error: block\n"
        "  timeout: 1000ms\n"
        "  mandatory: false\n"
        "  redaction: placeholder\n"
        "  restore: false\n"
        "  streams: window\n"
        "  tiers:\n"
        "  - likely\n"
        "- name: pii\n"
        "  type: pii\n"
        "  stage: input\n"
        "  action: redact\n"
        "  mode: enforce\n"
        "  on_error: block\n"
        "  timeout: 1000ms\n"
        "  mandatory: false\n"
        "  redaction: placeholder\n"
        "  restore: false\n"
        "  streams: window\n"
        "  private_addresses: false\n"
        "- name: prompt-injection\n"
        "  type: prompt_injection\n"
        "  stage: input\n"
        "  action: block\n"
        "  mode: shadow\n"
        "  on_error: block\n"
        "  timeout: 1000ms\n"
        "  mandatory: false\n"
        "  redaction: placeholder\n"
        "  restore: false\n"
        "  streams: buffer\n"
        "  threshold: medium\n"
        "  indirect_threshold: medium\n"
    )


def test_the_canonical_text_reads_back_as_the_same_policy() -> None:
    """Nothing but credentials is lost, so that a shown policy can be edited and applied."""
    policy = parse_policies(
        "name: a\nallowed_models: ['*']\nguardrails:\n"
        "  - {name: b, type: pii, types: [EMAIL], regions: [US], timeout: 250ms,"
        " warn_on_volume: 7.5%}\n"
        "  - {name: c, type: denied_terms, terms: ['yes', Blåbär]}\n"
        "  - {name: d, type: denied_patterns, patterns: [{name: X, regex: 'a\\d: #'}]}\n"
        "  - {name: f, type: json_schema, schema: {properties: {b: {enum: [1, 'yes', null]}}}}\n"
        "  - {name: g, type: json_schema, of: arguments, tools: [h], max_bytes: 9, max_depth: 3,"
        " schema: {$ref: '#/$defs/a', $defs: {a: true}}}\n"
        "  - {name: e, type: webhook, url: 'http://h/', timeout: 2s}\n"
    )[0]
    assert parse_policies(render_policy(policy)) == (policy,)


def test_header_values_are_never_shown() -> None:
    """Show and diff may end up in a ticket; webhook credentials must not."""
    policy = parse_policies(
        "name: a\nguardrails: [{name: b, type: webhook, url: 'http://h/', "
        "headers: {authorization: hunter2}}]"
    )[0]
    text = render_policy(policy)
    assert "authorization: '***'" in text
    assert "hunter2" not in text + repr(policy)


def test_the_query_of_a_url_is_never_shown() -> None:
    """Some servers take their token there."""
    policy = parse_policies(
        "name: a\nguardrails: [{name: b, type: webhook, url: 'http://h/check?token=hunter2'}]"
    )[0]
    text = render_policy(policy)
    assert "url: http://h/check?***\n" in text
    assert "hunter2" not in text
