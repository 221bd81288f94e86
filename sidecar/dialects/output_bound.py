"""How many output tokens a request allows the model, by whatever field its API has for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.dialects.strict_json import JsonValue

_FIELDS: Final = frozenset(
    {
        "max_tokens",  # OpenAI chat until 2024, completions; Anthropic
        "max_completion_tokens",  # OpenAI chat
        "max_output_tokens",  # OpenAI responses
        "maxOutputTokens",  # Gemini
        "maxTokens",  # Bedrock converse
    }
)
_HOLDERS: Final = ("generationConfig", "generation_config", "inferenceConfig")
_CHOICES: Final = frozenset({"n", "best_of", "candidateCount"})
_MOST: Final = 10_000_000
"""No model writes as much; more is a mistake, or meant to overflow something."""


def output_bound(fields: dict[str, JsonValue]) -> int | None:
    """Return the most tokens that all choices together may have; None where nothing says.

    Of several fields the largest counts: nobody knows which one the provider goes by.
    """
    bounds = list(_whole_numbers(fields, _FIELDS))
    if not bounds:
        return None
    choices = max(_whole_numbers(fields, _CHOICES), default=1)
    return min(max(bounds) * max(1, choices), _MOST)


def _whole_numbers(fields: dict[str, JsonValue], names: frozenset[str]) -> Iterator[int]:
    for holder in (fields, *(fields.get(name) for name in _HOLDERS)):
        if not isinstance(holder, dict):  # not «a Mapping», which takes ten times as long to ask
            continue
        for name in names.intersection(holder):
            value = holder[name]
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
                yield int(min(value, _MOST))
