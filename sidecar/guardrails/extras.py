"""Guardrails that need a package which Egret is also installed without."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Final

from sidecar.domain.local_guardrails import LanguageSettings, MaxTokensSettings

_NEEDED: Final[Mapping[str, tuple[str, str]]] = {
    LanguageSettings.guardrail_type: ("language", "py3langid"),
    MaxTokensSettings.guardrail_type: ("tokens", "quicktok"),
}
"""Extra and module by the guardrail's type."""


def missing_extras() -> Mapping[str, str]:
    """Return the extras that are not installed here, by the type of the guardrail that needs them.

    Nothing is imported: that would take half a second and 145 MB.
    """
    return {
        kind: extra
        for kind, (extra, module) in _NEEDED.items()
        if importlib.util.find_spec(module) is None
    }
