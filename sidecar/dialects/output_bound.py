"""How many output tokens a request allows the model, by whatever field its API has for it."""

from __future__ import annotations

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
    holders = [fields]
    for name in _HOLDERS:
        holder = fields.get(name)
        if isinstance(holder, dict):  # not «a Mapping», which takes ten times as long to ask
            holders.append(holder)
    bounds = _whole_numbers(holders, _FIELDS)
    if not bounds:
        return None
    choices = max(_whole_numbers(holders, _CHOICES), default=1)
    return min(max(bounds) * max(1, choices), _MOST)


def _whole_numbers(holders: list[dict[str, JsonValue]], names: frozenset[str]) -> list[int]:
    return [
        int(min(value, _MOST))
        for holder in holders
        for name in names.intersection(holder)
        if isinstance(value := holder[name], (int, float))
        and not isinstance(value, bool)
        and value >= 0
    ]
