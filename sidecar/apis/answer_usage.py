"""Reads the token counts that a provider states in its answer, whole or in events."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec.structs import astuple

from sidecar.apis.request_schema import service_tier
from sidecar.apis.response_text import load_event
from sidecar.domain.http import Headers
from sidecar.domain.usage import (
    BEDROCK_INPUT_TOKENS,
    BEDROCK_OUTPUT_TOKENS,
    MAX_COUNT,
    TokenCounts,
)
from sidecar.jsontext.strict import JsonValue

_MARK: Final = b'"usage'
"""In every payload with counts: `usage` and `usageMetadata`."""
_METRICS: Final = "amazon-bedrock-invocationMetrics"
"""In the last chunk of Bedrock's `invoke-with-response-stream`, of every model."""
_METRICS_MARK: Final = f'"{_METRICS}"'.encode()

_HOLDERS: Final = ("message", "response", "interaction")
"""Members that hold an answer within an event: Anthropic's first, the last of other APIs."""

_INPUT: Final = (
    "prompt_tokens",
    "input_tokens",
    "inputTokens",
    "promptTokenCount",
    "inputTokenCount",
    "total_input_tokens",
)
_OUTPUT: Final = (
    "completion_tokens",
    "output_tokens",
    "outputTokens",
    "candidatesTokenCount",
    "outputTokenCount",
    "total_output_tokens",
)
_READ: Final = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
_WRITTEN: Final = (
    "cache_creation_input_tokens", "cacheWriteInputTokens", "cacheWriteInputTokenCount",
)  # fmt: skip
_COUNT: Final = re.compile(r"[0-9]{1,10}")
_STATED: Final = frozenset({*_INPUT, *_OUTPUT, "total_tokens", "totalTokens"})
"""Without any of these there is no count: OpenAI's transcriptions may state seconds alone."""
_INPUT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
_TIER: Final = ("service_tier", "serviceTier")
_NO_TIER: Final = (None, "auto")
"""The beginning of a stream may repeat what the request left open."""
_BESIDE: Final = ("compaction", "advisor_message")
"""Steps of Anthropic's that its counts of the whole answer leave out, and its bill does not."""


class AnswerUsage:
    """The counts, the model and the service tier of one answer, as far as it was read."""

    __slots__ = ("_fields", "is_final", "model", "tier")

    def __init__(self) -> None:
        self.model: str | None = None
        self.tier: str | None = None
        """That served the request; empty for one without prices of its own, None if not stated."""
        self.is_final = False
        """Whether the counts are of the end: Anthropic's first event states those of its start."""
        self._fields: dict[str, JsonValue] = {}

    @property
    def tokens(self) -> TokenCounts | None:
        """Return the counts; None if the answer stated none that count all of it."""
        return self.stated if self.is_final else None

    @property
    def stated(self) -> TokenCounts:
        """Return the counts as far as the answer has stated any."""
        return _token_counts(self._fields)

    def read(self, payload: bytes | None) -> None:
        """Read one event, or a whole answer; of no effect if there are no counts in it."""
        if payload is None or (_MARK not in payload and _METRICS_MARK not in payload):
            return
        try:
            document: JsonValue = load_event(payload)
        except (ValueError, RecursionError):
            return
        if not isinstance(document, dict):
            return
        self._take(document, is_within=False)
        for name in _HOLDERS:
            if isinstance(held := document.get(name), dict):
                self._take(held, is_within=name == "message")

    def read_headers(self, headers: Headers) -> None:
        """Read the counts in the headers of Bedrock, of models whose answers state none."""
        counts = [headers.text(one) for one in (BEDROCK_INPUT_TOKENS, BEDROCK_OUTPUT_TOKENS)]
        if _COUNT.fullmatch(counts[0]):
            given, made = [int(one) if _COUNT.fullmatch(one) else 0 for one in counts]
            self._take({"usage": {"inputTokens": given, "outputTokens": made}}, is_within=False)

    def _take(self, answer: Mapping[str, JsonValue], *, is_within: bool) -> None:
        model = answer.get("model") or answer.get("modelVersion")
        if isinstance(model, str):
            self.model = model
        for name in _TIER:
            if answer.get(name) not in _NO_TIER:
                self.tier = service_tier(answer) or ""
        usage = answer.get("usage") or answer.get("usageMetadata")
        if not usage and not self.is_final:  # else the model's own have stated the same
            usage = answer.get(_METRICS)
        if isinstance(usage, dict):
            # Null for a count that an earlier event has stated, as Anthropic's API allows.
            if usage.get("speed") is not None:  # Anthropic's fast mode
                self.tier = service_tier({"speed": usage["speed"]}) or ""
            self._fields.update([one for one in usage.items() if one[1] is not None])
            if not is_within:
                stated = [usage[name] for name in _STATED.intersection(usage)]
                given = [one for one in stated if one is not None]
                # Of a number that is none, such as -1, an estimate says more.
                is_final = bool(given) and None not in map(_number, given)
                self.is_final = self.is_final or is_final


def _token_counts(usage: Mapping[str, JsonValue]) -> TokenCounts:
    """Bring the counts of any API to one form: parts are included in their sum."""
    given, made = _first(usage, _INPUT), _first(usage, _OUTPUT)
    # Anthropic and Bedrock count apart what the provider's cache gave or took.
    read = _count(usage, *_READ)
    written = _count(usage, *_WRITTEN)
    if "prompt_tokens" not in usage:  # some providers state both forms: the sum, and its parts
        given += read + written
    # Google counts thoughts apart, and the results of its own tools.
    thoughts = _count(usage, "thoughtsTokenCount", "total_thought_tokens")
    given += _count(usage, "toolUsePromptTokenCount", "total_tool_use_tokens")
    made += thoughts
    rest = max(0, _count(usage, "total_tokens", "totalTokens") - given - made)
    if "total_tokens" in usage and not usage.keys().isdisjoint(_OUTPUT):
        made += rest  # some servers for OpenAI's API leave reasoning out of the output
    else:
        given += rest  # Voyage states the sum alone
    for name in _INPUT_DETAILS:
        if isinstance(details := usage.get(name), dict):
            read = max(read, _count(details, "cached_tokens"))
            written = max(written, _count(details, "cache_write_tokens"))
    for name in _OUTPUT_DETAILS:
        if isinstance(details := usage.get(name), dict):
            thoughts = max(thoughts, _count(details, "reasoning_tokens", "thinking_tokens"))
    read += _count(usage, "cachedContentTokenCount", "total_cached_tokens")
    kept = 0  # an hour instead of five minutes: of Anthropic's answer, then of Bedrock's
    if isinstance(by_time := usage.get("cache_creation"), dict):
        kept = _count(by_time, "ephemeral_1h_input_tokens")
    parts = usage.get("cacheDetails")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and part.get("ttl") == "1h":
            kept += _count(part, "inputTokens")
    counts = [given, made, read, written, thoughts, min(kept, written)]
    steps = usage.get("iterations")
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and step.get("type") in _BESIDE:
            counts = [a + b for a, b in zip(counts, astuple(_token_counts(step)), strict=True)]
    return TokenCounts(*[min(one, MAX_COUNT) for one in counts])


def _first(usage: Mapping[str, JsonValue], names: tuple[str, ...]) -> int:
    return next((_count(usage, name) for name in names if usage.get(name) is not None), 0)


def _count(usage: Mapping[str, JsonValue], *names: str) -> int:
    """Return the sum of these members; one that is no count is 0."""
    return sum([_number(usage.get(name)) or 0 for name in names])


def _number(value: JsonValue) -> int | None:
    """Return a count, which some servers write as `200.0` or in a string; None of all else."""
    if type(value) is str:
        return int(value) if _COUNT.fullmatch(value) else None
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None
