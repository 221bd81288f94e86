"""From a guardrail's settings to the check that judges texts as a whole."""

from __future__ import annotations

from functools import lru_cache
from typing import assert_never

from sidecar.domain.local_guardrails import (
    LanguageSettings,
    MaxInputSettings,
    MaxTokensSettings,
    PromptInjectionSettings,
    WholeTextSettings,
)
from sidecar.domain.policy import GuardrailSettings
from sidecar.guardrails.prompt_injection.scoring import shipped_scorer
from sidecar.guardrails.whole_text.check import WholeTextCheck
from sidecar.guardrails.whole_text.language import LanguageCheck
from sidecar.guardrails.whole_text.max_input import MaxInputCheck
from sidecar.guardrails.whole_text.max_tokens import MaxTokensCheck
from sidecar.guardrails.whole_text.prompt_injection import PromptInjectionCheck


def whole_text_check(settings: GuardrailSettings) -> WholeTextCheck | None:
    """Return the check, None for a guardrail of rules or of a server's."""
    return _check(settings) if isinstance(settings, WholeTextSettings) else None


@lru_cache(maxsize=256)
def _check(settings: WholeTextSettings) -> WholeTextCheck:
    """Return the same check for equal settings: some hold tables worth sharing."""
    match settings:
        case MaxInputSettings(max_characters=max_characters):
            return MaxInputCheck(max_characters)
        case MaxTokensSettings(max_tokens=most):
            return MaxTokensCheck(most)
        case LanguageSettings(allowed=allowed):
            return LanguageCheck(allowed)
        case PromptInjectionSettings():
            return PromptInjectionCheck(settings, shipped_scorer())
        case _:
            assert_never(settings)
