from __future__ import annotations

import pytest

from sidecar.domain.guardrail_settings import (
    DeniedPattern,
    DeniedPatternsSettings,
    DeniedTermsSettings,
    PiiSettings,
    PromptInjectionSettings,
    RemoteEndpoint,
    SecretsSettings,
    SecretTier,
    WebhookSettings,
)
from sidecar.domain.policy import (
    Action,
    Guardrail,
    Mode,
    OnError,
    Policy,
    ProviderChoice,
    Stage,
    StreamMode,
    UnscannedAction,
)
from sidecar.domain.subject import Operation
from sidecar.policy.parse import (
    PolicyDocumentError,
    default_policy,
    default_policy_text,
    parse_documents,
    parse_policies,
)

COMPLETE = """\
# Finance
name: finance
unscanned: flag
allowed_models: ["gpt-5*", claude-*]
guardrails:
  - {name: secrets, type: secrets, types: [AWS_ACCESS_KEY], mandatory: true}
  - {name: pii, type: pii, action: redact, regions: [US, DE]}
  - name: codes
    type: denied_patterns
    mode: shadow
    patterns:
      - {name: PROJECT_CODE, regex: 'PRJ-[0-9]{4}'}
  - {name: words, type: denied_terms, action: flag, terms: [Bluebird, "top secret"]}
  - name: dlp
    type: webhook
    url: https://dlp.example.com/check
    headers: {authorization: Bearer abc}
    timeout: 250ms
    on_error: allow
"""


def test_every_field_of_a_document_reaches_the_policy() -> None:
    """What is written is what holds, and what is left out has the documented default."""
    assert parse_policies(COMPLETE, version=7) == (
        Policy(
            name="finance",
            version=7,
            unscanned=UnscannedAction.FLAG,
            allowed_models=("gpt-5*", "claude-*"),
            guardrails=(
                Guardrail("secrets", SecretsSettings(("AWS_ACCESS_KEY",)), mandatory=True),
                Guardrail("pii", PiiSettings(regions=("US", "DE")), action=Action.REDACT),
                Guardrail(
                    "codes",
                    DeniedPatternsSettings((DeniedPattern("PROJECT_CODE", "PRJ-[0-9]{4}"),)),
                    mode=Mode.SHADOW,
                ),
                Guardrail(
                    "words", DeniedTermsSettings(("Bluebird", "top secret")), action=Action.FLAG
                ),
                Guardrail(
                    "dlp",
                    WebhookSettings(
                        RemoteEndpoint(
                            "https://dlp.example.com/check", (("authorization", "Bearer abc"),)
                        )
                    ),
                    on_error=OnError.ALLOW,
                    timeout_seconds=0.25,
                    streams=StreamMode.BUFFER,
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("500ms", 0.5), ("2s", 2.0), ("1.5s", 1.5), ("1.5", 1.5), ("3", 3.0)],
)
def test_a_timeout_is_a_duration_or_seconds(written: str, seconds: float) -> None:
    """Units are milliseconds or seconds; a bare number is seconds."""
    text = f"name: a\nguardrails: [{{name: b, type: pii, timeout: {written}}}]"
    assert parse_policies(text)[0].guardrails[0].timeout_seconds == seconds


def test_several_documents_are_several_policies_and_lose_nothing() -> None:
    """The pieces, joined, are the text; each piece alone gives its policy again."""
    text = f"{COMPLETE}# about the next one\n---\nname: second # last\n"
    documents = parse_documents(text)
    assert [document.policy.name for document in documents] == ["finance", "second"]
    assert "".join(document.text for document in documents) == text
    assert [parse_policies(document.text)[0] for document in documents] == [
        document.policy for document in documents
    ]


def test_the_default_policy_blocks_secrets_and_redacts_personal_data() -> None:
    """A fresh installation is guarded before anybody writes a policy."""
    assert default_policy() == parse_policies(default_policy_text(), version=0)[0]
    assert default_policy() == Policy(
        name="default",
        version=0,
        unscanned=UnscannedAction.BLOCK,
        guardrails=(
            Guardrail("secrets", SecretsSettings(tiers=(SecretTier.STRICT,)), action=Action.BLOCK),
            Guardrail(
                "likely-secrets",
                SecretsSettings(tiers=(SecretTier.LIKELY,)),
                action=Action.REDACT,
            ),
            Guardrail("pii", PiiSettings(), action=Action.REDACT),
            Guardrail(
                "prompt-injection",
                PromptInjectionSettings(),
                mode=Mode.SHADOW,
                streams=StreamMode.BUFFER,
            ),
        ),
    )


HOOK = "name: p\nguardrails:\n  - {name: a, type: webhook, url: 'http://h/'"
GUARDRAIL = "name: p\nguardrails:\n  - "
PRESIDIO = f"{GUARDRAIL}{{name: a, type: presidio, url: 'http://h/'"
SCHEMA = f"{GUARDRAIL}{{name: a, type: json_schema, schema: {{}}"

FAULTS = {
    "unknown_field": (
        "name: p\nunscaned: block\n",
        "line 2, column 1: unscaned: unknown field `unscaned` (did you mean `unscanned`?)",
    ),
    "unknown_guardrail_field": (
        f"{GUARDRAIL}{{name: a, type: pii, actoin: flag}}",
        "line 3, column 26: guardrails[0].actoin: unknown field `actoin` (did you mean `action`?)",
    ),
    "field_of_another_type": (
        f"{GUARDRAIL}{{name: a, type: secrets, thresholds: {{}}}}",
        (
            "line 3, column 30: guardrails[0].thresholds: unknown field `thresholds` "
            "(one of action, exceptions, mandatory, mode, models, name, on_error, redaction, "
            "restore, rollout, routes, stage, streams, tiers, timeout, type, types, "
            "warn_on_volume)"
        ),
    ),
    "type_of_another_tier": (
        f"{GUARDRAIL}{{name: a, type: secrets, tiers: [strict], types: [JWT, TEST_KEY]}}",
        "line 3, column 5: guardrails[0]: has the type TEST_KEY, which `tiers` leaves out",
    ),
    "unknown_route": (
        f"{GUARDRAIL}{{name: a, type: pii, routes: [chat, chats]}}",
        (
            "line 3, column 41: guardrails[0].routes[1]: must be one of "
            f"{', '.join(operation.value for operation in Operation)}"
        ),
    ),
    "no_route": (
        f"{GUARDRAIL}{{name: a, type: pii, routes: []}}",
        "line 3, column 34: guardrails[0].routes: must have at least 1 item",
    ),
    "one_region_without_a_list": (
        f"{GUARDRAIL}{{name: a, type: pii, regions: US}}",
        "line 3, column 35: guardrails[0].regions: must be a list (write [US])",
    ),
    "terms_without_a_value": (
        f"{GUARDRAIL}{{name: a, type: denied_terms, terms: }}",
        (
            "line 3, column 42: guardrails[0].terms: must be a list "
            "(write each item in a line of its own after a dash)"
        ),
    ),
    "a_term_that_is_not_displayed": (
        f'{GUARDRAIL}{{name: a, type: denied_terms, terms: [ok, "\\u200b"]}}',
        "line 3, column 42: guardrails[0].terms: has no character that is displayed in term 2",
    ),
    "guardrails_without_a_list": (
        "name: a\nguardrails: x\n",
        "line 2, column 13: guardrails: must be a list (write [{name: …, type: …}])",
    ),
    "a_bare_guardrail": (
        f"{GUARDRAIL}secrets",
        "line 3, column 5: guardrails[0]: must be a mapping (write {name: …, type: …})",
    ),
    "milliseconds_without_a_unit": (
        f"{GUARDRAIL}{{name: a, type: pii, timeout: 250}}",
        (
            "line 3, column 35: guardrails[0].timeout: must be at most 30 seconds "
            "(a number is in seconds; for milliseconds write 250ms)"
        ),
    ),
    "more_seconds_than_a_timeout_may_have": (
        f"{GUARDRAIL}{{name: a, type: pii, timeout: 45s}}",
        "line 3, column 35: guardrails[0].timeout: must be at most 30 seconds",
    ),
    "rollout_without_a_percent_sign": (
        f"{GUARDRAIL}{{name: a, type: pii, rollout: 10}}",
        (
            "line 3, column 35: guardrails[0].rollout: "
            "is not a percentage; write for example 10% or 0.5%"
        ),
    ),
    "rollout_to_more_than_all": (
        f"{GUARDRAIL}{{name: a, type: pii, rollout: 100.01%}}",
        "line 3, column 35: guardrails[0].rollout: is more than 100%",
    ),
    "warning_on_a_volume_without_a_percent_sign": (
        f"{GUARDRAIL}{{name: a, type: pii, warn_on_volume: 0.1}}",
        (
            "line 3, column 42: guardrails[0].warn_on_volume: "
            "is not a percentage; write for example 10% or 0.5%"
        ),
    ),
    "exception_without_an_end": (
        f"{GUARDRAIL}{{name: a, type: pii, exceptions: [{{team: a/b, reason: x}}]}}",
        "line 3, column 39: guardrails[0].exceptions[0]: `until` is required",
    ),
    "exception_without_a_reason": (
        f"{GUARDRAIL}{{name: a, type: pii, exceptions: [{{team: a/b, until: 2027-01-31}}]}}",
        "line 3, column 39: guardrails[0].exceptions[0]: `reason` is required",
    ),
    "exception_that_never_ends": (
        f"{GUARDRAIL}{{name: a, type: pii, exceptions: [{{team: a/b, until: never, reason: x}}]}}",
        (
            "line 3, column 58: guardrails[0].exceptions[0].until: "
            "is not a day; write for example 2027-01-31"
        ),
    ),
    "exception_until_no_day": (
        (
            f"{GUARDRAIL}{{name: a, type: pii, "
            "exceptions: [{team: a/b, until: 2027-02-30, reason: x}]}"
        ),
        ("line 3, column 58: guardrails[0].exceptions[0].until: is not a day of the calendar"),
    ),
    "exception_for_nobody": (
        f"{GUARDRAIL}{{name: a, type: pii, exceptions: [{{until: 2027-01-31, reason: x}}]}}",
        (
            "line 3, column 39: guardrails[0].exceptions[0]: "
            "needs a `key` or a `team`, and not both"
        ),
    ),
    "exception_for_a_whole_key": (
        (
            f"{GUARDRAIL}{{name: a, type: pii, "
            "exceptions: [{key: egk_a, until: 2027-01-31, reason: x}]}"
        ),
        (
            "line 3, column 45: guardrails[0].exceptions[0].key: is not a name that is accepted "
            "here (a key's public id, 12 letters and digits)"
        ),
    ),
    "unknown_field_of_an_exception": (
        (
            f"{GUARDRAIL}{{name: a, type: pii, "
            "exceptions: [{team: a/b, until: 2027-01-31, why: x, reason: y}]}"
        ),
        (
            "line 3, column 70: guardrails[0].exceptions[0].why: unknown field `why` "
            "(one of key, reason, team, until)"
        ),
    ),
    "unknown_type": (
        f"{GUARDRAIL}{{name: a, type: secret}}",
        "line 3, column 21: guardrails[0].type: unknown type `secret` (did you mean `secrets`?)",
    ),
    "no_type": (
        f"{GUARDRAIL}{{name: a}}",
        (
            "line 3, column 5: guardrails[0]: `type` is required "
            "(one of secrets, pii, prompt_injection, denied_patterns, denied_terms, code, "
            "toxicity, language, max_input, max_tokens, json_schema, webhook, grpc, "
            "moderation, presidio, llm_judge)"
        ),
    ),
    "missing_field": (
        f"{GUARDRAIL}{{name: a, type: webhook}}",
        "line 3, column 5: guardrails[0]: `url` is required",
    ),
    "wrong_choice": (
        f"{GUARDRAIL}{{name: a, type: pii, action: deny}}",
        "line 3, column 34: guardrails[0].action: must be one of block, redact, flag",
    ),
    "unknown_finding": (
        f"{GUARDRAIL}{{name: a, type: pii, types: [MAIL]}}",
        (
            "line 3, column 34: guardrails[0].types[0]: unknown PII type `MAIL` "
            "(did you mean `EMAIL`?)"
        ),
    ),
    "unknown_among_many": (
        f"{GUARDRAIL}{{name: a, type: pii, types: [xxxxxxx]}}",
        (
            "line 3, column 34: guardrails[0].types[0]: unknown PII type `xxxxxxx` "
            "(`egret policy schema` has all names)"
        ),
    ),
    "unknown_region": (
        f"{GUARDRAIL}{{name: a, type: pii, regions: [us]}}",
        "line 3, column 36: guardrails[0].regions[0]: unknown region `us` (did you mean `US`?)",
    ),
    "a_bare_pattern": (
        f"{GUARDRAIL}{{name: a, type: denied_patterns, patterns: [PRJ]}}",
        (
            "line 3, column 49: guardrails[0].patterns[0]: must be a mapping "
            "(write {name: PROJECT_CODE, regex: 'PRJ-[0-9]+'})"
        ),
    ),
    "a_bare_exception": (
        f"{GUARDRAIL}{{name: a, type: pii, exceptions: [acme/search]}}",
        (
            "line 3, column 39: guardrails[0].exceptions[0]: must be a mapping "
            "(write {team: ORGANIZATION/TEAM, until: 2027-01-31, reason: …})"
        ),
    ),
    "boolean_name": (
        f"{GUARDRAIL}{{name: no, type: pii}}",
        "line 3, column 12: guardrails[0].name: must be text (put it in quotes)",
    ),
    "name_with_spaces": (
        "name: my policy\n",
        (
            "line 1, column 7: name: is not a name that is accepted here "
            "(lower case letters, digits, dots, dashes and underscores, at most 63)"
        ),
    ),
    "guardrail_name_from_a_digit": (
        f"{GUARDRAIL}{{name: 2fa, type: pii}}",
        (
            "line 3, column 12: guardrails[0].name: is not a name that is accepted here "
            "(a lower case letter, then such, digits, underscores and dashes, at most 63)"
        ),
    ),
    "relative_file": (
        f"{HOOK}, ca_file: ca.pem}}",
        (
            "line 3, column 57: guardrails[0].ca_file: is not a name that is accepted here "
            "(an absolute path on the worker's machine)"
        ),
    ),
    "language_in_capitals": (
        f"{PRESIDIO}, language: EN}}",
        (
            "line 3, column 59: guardrails[0].language: is not a name that is accepted here "
            "(two lower case letters such as en)"
        ),
    ),
    "entity_in_lower_case": (
        f"{PRESIDIO}, entities: [person]}}",
        (
            "line 3, column 60: guardrails[0].entities[0]: is not a name that is accepted here "
            "(upper snake case such as PERSON, at most 40)"
        ),
    ),
    "category_in_capitals": (
        f"{GUARDRAIL}{{name: a, type: moderation, url: 'http://a', categories: [Hate]}}",
        (
            "line 3, column 63: guardrails[0].categories[0]: is not a name that is accepted here "
            "(lower case such as self-harm/intent, at most 63)"
        ),
    ),
    "no_name": ("unscanned: block\n", "line 1, column 1: `name` is required"),
    "bad_duration": (
        f"{GUARDRAIL}{{name: a, type: pii, timeout: 5d}}",
        (
            "line 3, column 35: guardrails[0].timeout: "
            "is not a duration; write for example 500ms, 2s or 1.5"
        ),
    ),
    "window_for_a_whole_text": (
        f"{HOOK}, stage: output, streams: window}}",
        (
            "line 3, column 72: guardrails[0].streams: webhook needs the whole of an answer "
            "(use buffer)"
        ),
    ),
    "limit_to_redact": (
        f"{GUARDRAIL}{{name: a, type: max_input, max_characters: 10, action: redact}}",
        (
            "line 3, column 60: guardrails[0].action: has nothing to replace here; "
            "use block or flag"
        ),
    ),
    "unknown_field_of_a_breaker": (
        f"{HOOK}, breaker: {{failure: 3}}}}",
        (
            "line 3, column 58: guardrails[0].breaker.failure: unknown field `failure` "
            "(did you mean `failures`?)"
        ),
    ),
    "half_an_identity": (
        f"{HOOK}, cert_file: /c.pem}}",
        "line 3, column 5: guardrails[0]: `cert_file` and `key_file` go together",
    ),
    "certificates_without_tls": (
        f"{HOOK}, ca_file: /ca.pem}}",
        "line 3, column 5: guardrails[0]: has certificate files, and a URL without TLS",
    ),
    "late_hedge": (
        f"{HOOK}, timeout: 1s, hedge_after: 1s}}",
        "line 3, column 5: guardrails[0]: `hedge_after` is not shorter than `timeout`",
    ),
    "grpc_with_a_path": (
        f"{GUARDRAIL}{{name: a, type: grpc, url: 'grpc://h:1/x'}}",
        (
            "line 3, column 32: guardrails[0].url: has a path; a gRPC server is named by host "
            "and port"
        ),
    ),
    "grpc_without_a_port": (
        f"{GUARDRAIL}{{name: a, type: grpc, url: 'grpc://h'}}",
        "line 3, column 32: guardrails[0].url: is not grpc://host:port or grpcs://host:port",
    ),
    "grpc_at_a_metadata_address": (
        f"{GUARDRAIL}{{name: a, type: grpc, url: 'grpc://169.254.169.254:80'}}",
        "line 3, column 32: guardrails[0].url: points at a link-local or metadata address",
    ),
    "binary_metadata": (
        f"{GUARDRAIL}{{name: a, type: grpc, url: 'grpc://h:1', headers: {{a-bin: x}}}}",
        "line 3, column 5: guardrails[0]: `a-bin` is gRPC's own, or binary metadata",
    ),
    "schema_of_requests": (
        f"{SCHEMA}, stage: both}}",
        (
            "line 3, column 53: guardrails[0].stage: judges answers alone; "
            "use output, or leave it out"
        ),
    ),
    "schema_that_redacts": (
        f"{SCHEMA}, action: redact}}",
        (
            "line 3, column 54: guardrails[0].action: has nothing to replace here; "
            "use block or flag"
        ),
    ),
    "schema_of_half_a_stream": (
        f"{SCHEMA}, streams: window}}",
        (
            "line 3, column 55: guardrails[0].streams: json_schema needs the whole of an answer "
            "(use buffer)"
        ),
    ),
    "no_schema": (
        f"{GUARDRAIL}{{name: a, type: json_schema, shema: {{}}}}",
        (
            "line 3, column 5: guardrails[0]: `schema` is required\n"
            "line 3, column 34: guardrails[0].shema: unknown field `shema` "
            "(did you mean `schema`?)"
        ),
    ),
    "tools_without_arguments": (
        f"{SCHEMA}, tools: [f]}}",
        "line 3, column 5: guardrails[0]: has `tools`, which go with `of: arguments`",
    ),
    "schema_with_an_unknown_keyword": (
        f"{GUARDRAIL}{{name: a, type: json_schema, schema: {{items: {{requird: [b]}}}}}}",
        (
            "line 3, column 51: guardrails[0].schema.items.requird: unknown keyword `requird`, "
            "which would not be checked (did you mean `required`?)"
        ),
    ),
    "schema_of_elsewhere": (
        f"{GUARDRAIL}{{name: a, type: json_schema, schema: {{$ref: 'http://h/s'}}}}",
        (
            "line 3, column 49: guardrails[0].schema.$ref: leads out of this schema; nothing is "
            "ever fetched (put it under `$defs`, and write `#/$defs/NAME`)"
        ),
    ),
    "same_guardrail_twice": (
        f"{GUARDRAIL}{{name: a, type: pii}}\n  - {{name: a, type: secrets}}",
        "line 4, column 12: guardrails[1].name: a guardrail of this name is above (rename one)",
    ),
    "same_policy_twice": (
        "name: p\n---\nname: p\n",
        "line 3, column 7: name: a policy of this name is above",
    ),
    "metadata_url": (
        f"{GUARDRAIL}{{name: a, type: webhook, url: 'http://169.254.169.254/latest'}}",
        "line 3, column 35: guardrails[0].url: points at a link-local or metadata address",
    ),
    "metadata_url_as_number": (
        f"{GUARDRAIL}{{name: a, type: webhook, url: 'http://2852039166/'}}",
        "line 3, column 35: guardrails[0].url: points at a link-local or metadata address",
    ),
    "credentials_in_url": (
        f"{GUARDRAIL}{{name: a, type: webhook, url: 'http://u:secret@h/'}}",
        (
            "line 3, column 35: guardrails[0].url: "
            "holds credentials; put them into headers, which are never shown"
        ),
    ),
    "no_url": (
        f"{GUARDRAIL}{{name: a, type: webhook, url: 'ftp://h/'}}",
        "line 3, column 35: guardrails[0].url: is not an http or https URL",
    ),
    "reserved_header": (
        f"{GUARDRAIL}{{name: a, type: webhook, url: 'http://h/', headers: {{Host: x}}}}",
        "line 3, column 57: guardrails[0].headers: `Host` is set by Egret",
    ),
    "header_injection": (
        f'{GUARDRAIL}{{name: a, type: webhook, url: "http://h/", headers: {{x: "a\\r\\nb"}}}}',
        (
            "line 3, column 57: guardrails[0].headers: "
            "the value of `x` holds characters a header cannot carry"
        ),
    ),
    "not_a_mapping": ("- a\n", "line 1, column 1: a policy is a mapping, with a name"),
    "empty": ("", "line 1, column 1: no policy in here"),
    "key_twice": ("name: a\nname: b\n", "line 2, column 1: the key `name` is given twice"),
    "alias": ("name: &n a\n", "line 1, column 7: anchors and aliases are not accepted"),
    "tag": (
        "name: !!python/name:os.system x\n",
        "line 1, column 7: the tag `tag:yaml.org,2002:python/name:os.system` is not accepted",
    ),
    "merge_key": ("<<: {name: a}\n", "line 1, column 1: merge keys are not accepted"),
    "not_yaml": (
        "name: a: b\n",
        "line 1, column 8: mapping values are not allowed in this context",
    ),
    "control_character": (
        "name: a\n\x00",
        "line 2, column 1: not YAML: control characters are not allowed",
    ),
    "too_deep": (f"name: {'[' * 80}", "line 1, column 66: nested deeper than 60 levels"),
    "too_long": (f"#{'a' * 1_000_001}", "line 1, column 1: longer than 1000000 characters"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_says_where_it_is_what_it_is_and_how_to_fix_it(case: str) -> None:
    """Line and column point into the text, whatever level the fault is on."""
    text, words = FAULTS[case]
    with pytest.raises(PolicyDocumentError) as raised:
        parse_policies(text)
    assert str(raised.value) == words


PATTERN_FAULTS = {
    "look_ahead": ("a(?=b)", "look-around is not supported: RE2 runs in linear time"),
    "back_reference": (r"(a)\1", "back-references are not supported: RE2 runs in linear time"),
    "not_a_regex": ("a(b", "not RE2 syntax: missing ): a(b"),
    "empty_match": ("a*", "matches empty text, so it would match everywhere"),
    "engine": ("(?U)a+b", ("not supported by the matching engine: "
               "Unrecognised character after (? at index 0")),
    "too_long": ("a" * 1001, "longer than 1000 characters"),
}  # fmt: skip


@pytest.mark.parametrize("case", PATTERN_FAULTS)
def test_an_expression_is_refused_where_it_stands(case: str) -> None:
    """Both engines compile every expression before a policy is stored."""
    regex, words = PATTERN_FAULTS[case]
    text = (
        f"{GUARDRAIL}name: a\n    type: denied_patterns\n    patterns:\n"
        f"      - {{name: X, regex: '{regex}'}}\n"
    )
    with pytest.raises(PolicyDocumentError) as raised:
        parse_policies(text)
    place = "line 6, column 26: guardrails[0].patterns[0].regex"
    assert str(raised.value) == f"{place}: {words}"


def test_all_faults_are_told_at_once_in_the_order_of_the_text() -> None:
    """One run of apply shows everything there is to correct, over all documents."""
    text = (
        "name: A\nx: 1\n---\nname: b\nguardrails: [{name: c, type: pii, action: no, mode: on}]\n"
    )
    with pytest.raises(PolicyDocumentError) as raised:
        parse_policies(text)
    assert [(fault.line, fault.path) for fault in raised.value.faults] == [
        (1, "name"),
        (2, "x"),
        (5, "guardrails[0].action"),
        (5, "guardrails[0].mode"),
    ]


def test_a_trusted_document_is_read_without_compiling_its_expressions() -> None:
    """A worker that loads what was checked at apply must not compile on its event loop."""
    text = f"{GUARDRAIL}{{name: a, type: denied_patterns, patterns: [{{name: X, regex: 'a('}}]}}"
    settings = parse_policies(text, expressions="trust")[0].guardrails[0].settings
    assert settings == DeniedPatternsSettings((DeniedPattern("X", "a("),))


def test_no_fault_repeats_a_header_value() -> None:
    """A credential in a broken document must not reach a terminal or a log."""
    text = f'{GUARDRAIL}{{name: a, type: webhook, url: "x", headers: {{k: "hunter2\\n"}}}}'
    with pytest.raises(PolicyDocumentError) as raised:
        parse_policies(text)
    assert "hunter2" not in str(raised.value)
    assert raised.value.__context__ is None or "hunter2" not in str(raised.value.__context__)


def test_a_trusted_schema_is_not_checked_again() -> None:
    """It was when it was applied; a worker that reads a thousand policies has no time for it."""
    text = f"{SCHEMA.replace('{}', '{$ref: nowhere}')}}}"

    assert parse_policies(text, expressions="trust")[0].guardrails[0].stage is Stage.OUTPUT
    with pytest.raises(PolicyDocumentError):
        parse_policies(text, expressions="syntax")


def test_aliases_and_the_choice_of_a_provider_reach_the_policy() -> None:
    """Names of models and of Envoy's routes, in their order."""
    (policy,) = parse_policies(
        "name: a\naliases: {gpt-best: gpt-5-mini, fast: claude-haiku-4}\nrestore_aliases: true\n"
        "provider: {credential: search-openai, region: eu, order: [openai, azure]}\n"
    )
    assert policy.aliases == (("gpt-best", "gpt-5-mini"), ("fast", "claude-haiku-4"))
    assert policy.restores_aliases
    assert policy.provider == ProviderChoice("search-openai", "eu", ("openai", "azure"))


@pytest.mark.parametrize(
    ("aliases", "problem"),
    [
        ("{a: b, b: a}", "must not lead to another alias: a leads to b"),
        ("{a: a}", "must not lead to another alias: a leads to a"),
        ("{a: b, b: c}", "must not lead to another alias: a leads to b"),
        ("{'gpt *': gpt-5}", "is not a name that is accepted here"),
        ("[a, b]", "must be a mapping"),
    ],
)
def test_aliases_that_lead_to_no_model_are_refused(aliases: str, problem: str) -> None:
    """When the policy is applied, not with a request."""
    with pytest.raises(PolicyDocumentError) as refused:
        parse_policies(f"name: a\naliases: {aliases}\n")
    assert problem in str(refused.value)
