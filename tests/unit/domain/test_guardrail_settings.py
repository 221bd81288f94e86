"""Settings of guardrails."""

from __future__ import annotations

import pytest

from sidecar.domain.guardrail_settings import DeniedTermsSettings, PiiSettings
from sidecar.domain.policy import GuardrailSettings
from tests.support.reports import PATTERNS, SECRETS, WEBHOOK


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (SECRETS.settings, "secrets"),
        (PiiSettings(), "pii"),
        (PATTERNS.settings, "denied_patterns"),
        (DeniedTermsSettings(("bluebird",)), "denied_terms"),
        (WEBHOOK.settings, "webhook"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_guardrail_is_typed_as_in_its_policy(settings: GuardrailSettings, name: str) -> None:
    """Metrics and spans show the word that the policy has."""
    assert settings.guardrail_type == name
