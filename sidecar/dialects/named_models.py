"""Every model that a request names, wherever it does: each must be allowed.

Where the path names one, that is the one the provider runs; but a proxy behind us, or a provider
of tomorrow, may go by the body. So what the body names is judged as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.dialects.strict_json import JsonValue
from sidecar.domain.subject import Dialect, Route

_NESTING_FIELDS: Final = ("requests", "generateContentRequest", "generate_content_request")
"""Gemini repeats the model within these."""

# An enum's members are slow to look up on Python 3.11.
_GEMINI: Final = Dialect.GEMINI

_GEMINI_PREFIX: Final = "models/"


def named_models(route: Route, fields: dict[str, JsonValue]) -> tuple[str | None, tuple[str, ...]]:
    """Return the model a request is for, and any further ones it names."""
    model = fields.get("model")
    if route.dialect is _GEMINI:
        named = [name.removeprefix(_GEMINI_PREFIX) for name in _nested(fields)]
    elif route.model is None and "models" not in fields and isinstance(model, str):
        return model, ()  # mostly
    else:
        # Some gateways take a list of models to fall back to.
        named = [*_strings(fields.get("model")), *_strings(fields.get("models"))]
    if route.model is None:
        if not isinstance(model, str):
            return None, tuple(named)
        return model, tuple(dict.fromkeys(name for name in named if name != model))
    return route.model, tuple(dict.fromkeys(name for name in named if name != route.model))


def _nested(fields: dict[str, JsonValue]) -> Iterator[str]:
    yield from _strings(fields.get("model"))
    for name in _NESTING_FIELDS:
        inner = fields.get(name)
        for item in inner if isinstance(inner, list) else [inner]:
            if isinstance(item, dict):
                yield from _strings(item.get("model"))


def _strings(value: JsonValue) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield item
