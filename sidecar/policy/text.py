"""Renders a policy as canonical text, and edits single settings in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, assert_never

import yaml

from sidecar.domain.guardrail_settings import (
    CodeSettings,
    DeniedPatternsSettings,
    DeniedTermsSettings,
    GrpcSettings,
    JsonSchemaSettings,
    LanguageSettings,
    LlmJudgeSettings,
    MaxInputSettings,
    MaxTokensSettings,
    ModerationSettings,
    PiiSettings,
    PresidioSettings,
    PromptInjectionSettings,
    RemoteEndpoint,
    RemoteSettings,
    ResilienceSettings,
    RuleSettings,
    SecretsSettings,
    ToxicitySettings,
    WebhookSettings,
    WholeTextSettings,
)
from sidecar.domain.policy import FULL_ROLLOUT, Guardrail, GuardrailSettings, Mode, Policy, Scope
from sidecar.policy.parse import PolicyDocument, PolicyDocumentError, parse_documents
from sidecar.policy.yaml_positions import Path, YamlDocument, read_yaml

MASK: Final = "***"
"""Stands for a header's value, which may be a credential."""


def render_policy(policy: Policy) -> str:
    """Return the same text for equal policies, fields in a fixed order, defaults written out.

    Left out is what restricts nothing: types, routes, models, a roll-out to all, exceptions.

    The version is not in it, so that two versions with the same meaning have no difference. A
    changed header value does not show either; compare the policies themselves for that.
    """
    document: dict[str, Any] = {"name": policy.name, "unscanned": policy.unscanned.value}
    if policy.allowed_models is not None:
        document["allowed_models"] = list(policy.allowed_models)
    if policy.stream_usage is not None:
        document["usage"] = {"streams": policy.stream_usage.value}
    document["guardrails"] = [_guardrail(guardrail) for guardrail in policy.guardrails]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1_000)


def _guardrail(guardrail: Guardrail) -> dict[str, Any]:
    return {
        "name": guardrail.name,
        "type": guardrail.settings.guardrail_type,
        "stage": guardrail.stage.value,
        "action": guardrail.action.value,
        "mode": guardrail.mode.value,
        "on_error": guardrail.on_error.value,
        "timeout": _duration(guardrail.timeout_seconds),
        "mandatory": guardrail.mandatory,
        "redaction": guardrail.redaction.value,
        "restore": guardrail.restore,
        "streams": guardrail.streams.value,
        **_scope(guardrail.scope),
        **_settings(guardrail.settings),
    }


def _scope(scope: Scope) -> dict[str, Any]:
    routes = None if scope.routes is None else tuple(one.value for one in scope.routes)
    written = _given(
        routes=routes,
        models=scope.models,
        rollout=None if scope.rollout == FULL_ROLLOUT else f"{scope.rollout / 100:.12g}%",
    )
    if scope.exceptions:
        written["exceptions"] = [
            {one.level.value: one.name, "until": one.until.isoformat(), "reason": one.reason}
            for one in scope.exceptions
        ]
    return written


def _settings(settings: GuardrailSettings) -> dict[str, Any]:
    match settings:
        case (
            SecretsSettings()
            | PiiSettings()
            | DeniedPatternsSettings()
            | DeniedTermsSettings()
            | CodeSettings()
            | ToxicitySettings()
        ):
            return _rules(settings)
        case (
            PromptInjectionSettings()
            | LanguageSettings()
            | MaxInputSettings()
            | MaxTokensSettings()
        ):
            return _whole_text(settings)
        case JsonSchemaSettings():
            return _json_schema(settings)
        case _:
            return {
                "url": settings.endpoint.url,
                **_asked(settings),
                **_endpoint(settings.endpoint),
                **_resilience(settings.resilience),
            }


def _rules(settings: RuleSettings) -> dict[str, Any]:
    match settings:
        case SecretsSettings(types=types):
            return _given(types=types)
        case PiiSettings(types=types, regions=regions, countries=countries):
            return _given(types=types, regions=regions or None, countries=countries or None)
        case DeniedPatternsSettings(patterns=patterns):
            return {"patterns": [{"name": item.name, "regex": item.regex} for item in patterns]}
        case DeniedTermsSettings(terms=terms):
            return {"terms": list(terms)}
        case CodeSettings(languages=languages):
            return {"languages": [language.value for language in languages]}
        case ToxicitySettings(allowed=allowed):
            return _given(allowed=allowed or None)
        case _:
            assert_never(settings)


def _whole_text(settings: WholeTextSettings) -> dict[str, Any]:
    match settings:
        case PromptInjectionSettings(
            threshold=threshold, indirect_threshold=indirect, kinds=kinds
        ):
            chosen = None if kinds is None else tuple(kind.value for kind in kinds)
            levels = {"threshold": threshold.value, "indirect_threshold": indirect.value}
            return levels | _given(kinds=chosen)
        case LanguageSettings(allowed=allowed):
            return {"allowed": list(allowed)}
        case MaxInputSettings(max_characters=limit):
            return {"max_characters": limit}
        case MaxTokensSettings(max_tokens=limit):
            return {"max_tokens": limit}
        case _:
            assert_never(settings)


def _json_schema(settings: JsonSchemaSettings) -> dict[str, Any]:
    return {
        "of": settings.of.value,
        **_given(tools=settings.tools),
        "max_bytes": settings.max_bytes,
        "max_depth": settings.max_depth,
        "schema": json.loads(settings.schema),
    }


def _asked(settings: RemoteSettings) -> dict[str, Any]:
    match settings:
        case WebhookSettings() | GrpcSettings():
            return {}
        case ModerationSettings(model=model, categories=categories, thresholds=thresholds):
            given = _given(model=model, categories=categories)
            return given | ({"thresholds": dict(thresholds)} if thresholds else {})
        case PresidioSettings(language=language, entities=entities, min_score=score):
            return {"language": language, **_given(entities=entities), "min_score": score}
        case LlmJudgeSettings(model=model, rubric=rubric, min_score=score):
            return {"model": model, "rubric": rubric, "min_score": score}
        case _:
            assert_never(settings)


def _endpoint(endpoint: RemoteEndpoint) -> dict[str, Any]:
    masked = {name: MASK for name, _ in endpoint.headers}
    files = _given(
        ca_file=endpoint.ca_file, cert_file=endpoint.cert_file, key_file=endpoint.key_file
    )
    return ({"headers": masked} if masked else {}) | files


def _resilience(resilience: ResilienceSettings) -> dict[str, Any]:
    hedge = resilience.hedge_after_seconds
    return {
        "retries": resilience.retries,
        **_given(hedge_after=None if hedge is None else _duration(hedge)),
        "cache": _duration(resilience.cache_seconds),
        "max_concurrent": resilience.max_concurrent,
        "breaker": {
            "failures": resilience.breaker_failures,
            "open_for": _duration(resilience.breaker_seconds),
        },
    }


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.12g}ms"


def _given(**fields: str | tuple[str, ...] | None) -> dict[str, Any]:
    """Return the fields that have a value, lists as YAML writes them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if value is not None
    }


class NoSuchGuardrailError(Exception):
    """The policy has no guardrail of this name."""


class NotEditableError(Exception):
    """The text is written in a way that leaves no place for the change."""


def with_mode(document: PolicyDocument, guardrail: str, *, mode: Mode) -> PolicyDocument:
    """Return *document* with a guardrail in *mode*.

    What comes of an edit is read again and compared with what was meant: a text that an edit
    would change in any other way is not changed.

    Raises:
        NoSuchGuardrailError: there is none of this name.
        NotEditableError: no edit that was tried says what is meant.
    """
    meant = _with_mode(document.policy, guardrail, mode)
    index = [one.name for one in document.policy.guardrails].index(guardrail)
    tree = read_yaml(document.text)[0]
    for text in _edits(document.text, tree, ("guardrails", index), f"mode: {mode.value}"):
        try:
            edited = parse_documents(text, version=meant.version, expressions="syntax")
        except PolicyDocumentError:
            continue
        if [one.policy for one in edited] == [meant]:
            return edited[0]
    raise NotEditableError


def _with_mode(policy: Policy, guardrail: str, mode: Mode) -> Policy:
    if all(one.name != guardrail for one in policy.guardrails):
        raise NoSuchGuardrailError(guardrail)
    changed = (
        replace(one, mode=mode) if one.name == guardrail else one for one in policy.guardrails
    )
    return replace(policy, guardrails=tuple(changed))


def _edits(text: str, tree: YamlDocument, guardrail: Path, field: str) -> Iterable[str]:
    """Return texts that may be what is meant: the value replaced, or a field put before `type`."""
    value = tree.values.get((*guardrail, "mode"))
    if value is not None:
        before, after = _split(text, value)
        for quoted in (f"{quote}{mode.value}{quote}" for mode in Mode for quote in ("", "'", '"')):
            if after.startswith(quoted):
                yield before + field.removeprefix("mode: ") + after[len(quoted) :]
        return
    at = tree.keys[(*guardrail, "type")]
    before, after = _split(text, at)
    yield f"{before}{field}\n{' ' * (at[1] - 1)}{after}"
    yield f"{before}{field}, {after}"


def _split(text: str, at: tuple[int, int]) -> tuple[str, str]:
    line, column = at
    lines = text.splitlines(keepends=True)
    index = sum(len(one) for one in lines[: line - 1]) + column - 1
    return text[:index], text[index:]
