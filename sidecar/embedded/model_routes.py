"""Which provider gets which models: routes by the header in which Egret names the model."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.domain.http import HeaderName

_PATHS: Final = {
    "ANTHROPIC_MESSAGES": "/v1/messages(/count_tokens)?",
    "OPENAI_RESPONSES": "/v1/(responses(/input_tokens|/compact)?|images/[a-z]+)",
    "OPENAI_CHAT_COMPLETIONS": "/v1/((chat/)?completions|embeddings|moderations|audio/[a-z]+)",
}
"""Where a body names the model and several providers listen, by what Envoy's AI filter calls the
API. Every other path leads to the one provider that knows it."""

_GLOB: Final = re.compile(r"[A-Za-z0-9@*?][A-Za-z0-9._:/@+~*?-]*")
"""What Egret can name in the header, and the two wildcards of a key's list of models."""

_UNKNOWN: Final = "There is no such model here, or the request does not say which one it is for."


class UnknownModels(enum.Enum):
    """What becomes of a request whose model no route names, or that names none.

    REFUSE: 404 in the words of its API, from Envoy; no provider hears of it.
    BY_PATH: it goes where its path leads, as if nothing were routed by models.
    """

    REFUSE = "refuse"
    BY_PATH = "by_path"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoute:
    """Models, by globs as a key's list has them, and the provider (its name) that gets them."""

    models: tuple[str, ...]
    provider: str

    @property
    def problem(self) -> str | None:
        """What is wrong with it, None where nothing is."""
        if not self.models:
            return f"a route to {self.provider} names no model"
        for glob in self.models:
            if not _GLOB.fullmatch(glob):
                return f"Egret names no model in the header that {glob!r} could match"
        return None

    @property
    def matches(self) -> list[tuple[str, dict[str, object]]]:
        """The protocol and the match of each of its routes, as Envoy writes them."""
        return [
            (protocol, _match(path, {"string_match": _as_matcher(glob)}))
            for glob in self.models
            for protocol, path in _PATHS.items()
        ]


def unknown_model_routes() -> Iterator[dict[str, object]]:
    """Yield what answers a request that no route by model takes, as Envoy writes it."""
    for protocol, path in _PATHS.items():
        is_anthropics = protocol == "ANTHROPIC_MESSAGES"
        yield {
            "match": _match(path),
            "direct_response": {
                "status": 404,
                "body": {"inline_string": _ANTHROPIC if is_anthropics else _OPENAI},
            },
            "response_headers_to_add": [
                _overwritten("content-type", "application/json"),
                _overwritten("x-egret-request-id", "%DYNAMIC_METADATA(egret:request_id)%"),
            ],
        }


_OPENAI: Final = json.dumps(
    {
        "error": {
            "message": _UNKNOWN,
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
)
_ANTHROPIC: Final = json.dumps(
    {"type": "error", "error": {"type": "not_found_error", "message": _UNKNOWN}}
)


def _match(path: str, model: dict[str, object] | None = None) -> dict[str, object]:
    match: dict[str, object] = {"safe_regex": {"regex": path}}
    return (
        match
        if model is None
        else {**match, "headers": [{"name": HeaderName.EGRET_MODEL, **model}]}
    )


def _overwritten(name: str, value: str) -> dict[str, object]:
    header = {"key": name, "value": value}
    return {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD", "header": header}


def _as_matcher(glob: str) -> dict[str, object]:
    """Return a glob as Envoy's string matcher: cheap where it can be, and always of the whole."""
    plain = glob.rstrip("*")
    if "*" in plain or "?" in plain or not plain:
        return {"safe_regex": {"regex": "".join(_as_regex(one) for one in glob)}}
    return {"exact": glob} if plain == glob else {"prefix": plain}


def _as_regex(character: str) -> str:
    match character:
        case "*":
            return ".*"
        case "?":
            return "."
        case "." | "+":
            return f"\\{character}"
        case _:
            return character
