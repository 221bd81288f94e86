"""Every model that a request names, wherever it does: each must be allowed.

Where the path names one, that is the one the provider runs; but a proxy behind us, or a provider
of tomorrow, may go by the body. So what the body names is judged as well. Some run beside the
one that answers: a tool's own (OpenAI's `image_generation`, Anthropic's advisor), those to fall
back to, the one that moderates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.dialects.strict_json import JsonValue
from sidecar.domain.subject import Dialect, Route

MAX_OTHER_MODELS: Final = 32
"""Each is compared with every allowed one and looked up in the price table; no API has use for
so many."""

_NESTING_FIELDS: Final = ("requests", "generateContentRequest", "generate_content_request")
"""Gemini repeats the model within these."""

_SETTINGS: Final = ("moderation", "svg")
"""Objects with a model of their own: OpenAI's moderation of a chat, and its author of pictures."""

_NAMING: Final = frozenset({"models", "fallbacks", "tools", "input", *_SETTINGS})
"""Where OpenAI's APIs, and gateways that speak as they do, name further models."""

# An enum's members are slow to look up on Python 3.11.
_GEMINI: Final = Dialect.GEMINI
_OPENAI: Final = Dialect.OPENAI

_GEMINI_PREFIX: Final = "models/"


def named_models(route: Route, fields: dict[str, JsonValue]) -> tuple[str | None, tuple[str, ...]]:
    """Return the model a request is for, and any further ones it names."""
    model = fields.get("model")
    if route.dialect is _GEMINI:
        named = [name.removeprefix(_GEMINI_PREFIX) for name in _nested(fields)]
    elif route.dialect is _OPENAI and isinstance(model, str) and _NAMING.isdisjoint(fields):
        return model, ()  # mostly
    else:
        named = [*_strings(model), *_further(fields)]
    if route.model is None:
        if not isinstance(model, str):
            return None, tuple(dict.fromkeys(named))
        return model, tuple(dict.fromkeys(name for name in named if name != model))
    return route.model, tuple(dict.fromkeys(name for name in named if name != route.model))


def _nested(fields: dict[str, JsonValue]) -> Iterator[str]:
    yield from _strings(fields.get("model"))
    for name in _NESTING_FIELDS:
        for item in _objects(fields.get(name)):
            yield from _strings(item.get("model"))


def _further(fields: dict[str, JsonValue]) -> Iterator[str]:
    # Some gateways take a list of models to fall back to, Anthropic one of models and settings.
    # Its «default» is a choice of the provider's, which nobody has allowed.
    for name in ("models", "fallbacks"):
        yield from _strings(fields.get(name))
        yield from _models_of(fields.get(name))
    for name in _SETTINGS:
        yield from _models_of(fields.get(name))
    for tools in _tools(fields):
        for tool in _objects(tools):
            yield from _models_of(tool)
            yield from _models_of(tool.get("svg"))
    # Bedrock hands these on to the model as its own API has them.
    inner = fields.get("additionalModelRequestFields")
    if isinstance(inner, dict):
        yield from _models_of(inner)
        yield from _further(inner)


def _tools(fields: dict[str, JsonValue]) -> Iterator[JsonValue]:
    """Yield every list of tools: both APIs take more of them in the midst of a conversation."""
    yield fields.get("tools")
    for item in _objects(fields.get("input")):
        yield item.get("tools")  # `additional_tools`, `tool_search_output`
    for message in _objects(fields.get("messages")):
        for block in _objects(message.get("content")):
            for tool in _objects(block.get("tool")):
                yield tool.get("definition")  # `tool_addition`


def _models_of(value: JsonValue) -> Iterator[str]:
    for item in _objects(value):
        for name, inner in item.items():
            # A provider that takes names in any case would run it.
            if name == "model" or name.casefold() == "model":
                yield from _strings(inner)


def _objects(value: JsonValue) -> Iterator[dict[str, JsonValue]]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item


def _strings(value: JsonValue) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item
