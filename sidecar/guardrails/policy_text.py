"""The canonical text of a policy, for showing and comparing: every field, credentials masked."""

from __future__ import annotations

from typing import Any, Final, assert_never

import yaml

from sidecar.domain.policy import (
    DeniedPatternsSettings,
    DeniedTermsSettings,
    Guardrail,
    GuardrailSettings,
    PiiSettings,
    Policy,
    SecretsSettings,
    WebhookSettings,
)

MASK: Final = "***"
"""Stands for a header's value, which may be a credential."""


def render_policy(policy: Policy) -> str:
    """Return the same text for equal policies, fields in a fixed order, defaults written out.

    The version is left out, so that two versions with the same meaning have no difference. A
    changed header value does not show either; compare the policies themselves for that.
    """
    document: dict[str, Any] = {"name": policy.name, "unscanned": policy.unscanned.value}
    if policy.allowed_models is not None:
        document["allowed_models"] = list(policy.allowed_models)
    document["guardrails"] = [_guardrail(guardrail) for guardrail in policy.guardrails]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1_000)


def _guardrail(guardrail: Guardrail) -> dict[str, Any]:
    kind, settings = _settings(guardrail.settings)
    return {
        "name": guardrail.name,
        "type": kind,
        "stage": guardrail.stage.value,
        "action": guardrail.action.value,
        "mode": guardrail.mode.value,
        "on_error": guardrail.on_error.value,
        "timeout": f"{guardrail.timeout_seconds * 1000:.12g}ms",
        "mandatory": guardrail.mandatory,
        **settings,
    }


def guardrail_type(settings: GuardrailSettings) -> str:
    """Return the `type` of a policy document, as metrics and spans name it."""
    return _settings(settings)[0]


def _settings(settings: GuardrailSettings) -> tuple[str, dict[str, Any]]:
    match settings:
        case SecretsSettings(types=types):
            return "secrets", {} if types is None else {"types": list(types)}
        case PiiSettings(types=types, regions=regions):
            chosen: dict[str, Any] = {} if types is None else {"types": list(types)}
            return "pii", chosen | ({"regions": list(regions)} if regions else {})
        case DeniedPatternsSettings(patterns=patterns):
            return "denied_patterns", {
                "patterns": [{"name": item.name, "regex": item.regex} for item in patterns]
            }
        case DeniedTermsSettings(terms=terms):
            return "denied_terms", {"terms": list(terms)}
        case WebhookSettings(url=url, headers=headers):
            masked = {name: MASK for name, _ in headers}
            return "webhook", {"url": url} | ({"headers": masked} if masked else {})
        case _:
            assert_never(settings)
