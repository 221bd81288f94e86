"""The tool that the mock calls: the first of a request, with made-up arguments of its schema.

A request that offers tools is answered with a call, unless it forbids calls, ends with the result
of one, or a test has set the words of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import orjson

JsonObject = Mapping[str, object]

CALL_ID: Final = "call_mock_1"
MAX_DEPTH: Final = 8
_SAMPLES: Final[dict[str, object]] = {
    "string": "mock",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
    "null": None,
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of the tool *name*; `arguments` fit the required part of its schema."""

    name: str
    arguments: JsonObject

    @property
    def json(self) -> str:
        """The arguments as OpenAI's and streaming APIs send them."""
        return orjson.dumps(self.arguments).decode()

    @property
    def pieces(self) -> tuple[str, str]:
        """The arguments as a stream delivers them."""
        middle = len(self.json) // 2
        return self.json[:middle], self.json[middle:]


def openai_call(body: JsonObject, messages: object) -> ToolCall | None:
    """Return the call for a chat or for the Responses API; None if it is answered in words."""
    if body.get("tool_choice") == "none" or _last(messages).get("role") == "tool":
        return None
    if _last(messages).get("type") == "function_call_output":
        return None
    tool = _first(body.get("tools"))
    function = tool.get("function", tool)
    return _call(function, "parameters")


def anthropic_call(body: JsonObject) -> ToolCall | None:
    """Return the call for a message; None if it is answered in words."""
    if body.get("tool_choice") == {"type": "none"}:
        return None
    if _first(_last(body.get("messages")).get("content")).get("type") == "tool_result":
        return None
    return _call(_first(body.get("tools")), "input_schema")


_GEMINI_SCHEMAS: Final = ("parameters", "parametersJsonSchema", "parameters_json_schema")


def gemini_call(body: JsonObject) -> ToolCall | None:
    """Return the call for contents; None if it is answered in words."""
    parts = _last(body.get("contents")).get("parts")
    if {"functionResponse", "function_response"} & _first(parts).keys():
        return None
    tool = _first(body.get("tools"))
    declared = _first(tool.get("functionDeclarations", tool.get("function_declarations")))
    return _call(declared, next((one for one in _GEMINI_SCHEMAS if one in declared), ""))


def converse_call(body: JsonObject) -> ToolCall | None:
    """Return the call for Bedrock's Converse; None if it is answered in words."""
    if "toolResult" in _first(_last(body.get("messages")).get("content")):
        return None
    spec = _first(_object(body.get("toolConfig")).get("tools")).get("toolSpec")
    schema = _object(_object(spec).get("inputSchema")).get("json")
    return _call({**_object(spec), "schema": schema}, "schema")


def _call(tool: object, schema: str) -> ToolCall | None:
    name = _object(tool).get("name")
    if not isinstance(name, str):
        return None
    arguments = _sample(_object(tool).get(schema), MAX_DEPTH)
    return ToolCall(name, arguments if isinstance(arguments, dict) else {})


def _sample(schema: object, depth: int) -> object:
    """Return a value of a JSON schema, with the required properties of objects alone."""
    given = _object(schema)
    choices = given.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    kind = str(given.get("type", "object")).lower()
    if kind != "object" or depth == 0:
        return _SAMPLES.get(kind)
    required = given.get("required")
    properties = _object(given.get("properties"))
    names = [str(name) for name in required] if isinstance(required, list) else []
    return {name: _sample(properties.get(name), depth - 1) for name in names}


def _object(value: object) -> JsonObject:
    return cast("JsonObject", value) if isinstance(value, dict) else {}


def _first(items: object) -> JsonObject:
    return _object(items[0]) if isinstance(items, list) and items else {}


def _last(items: object) -> JsonObject:
    return _object(items[-1]) if isinstance(items, list) and items else {}
