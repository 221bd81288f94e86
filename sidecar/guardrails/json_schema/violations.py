"""Locates the violation in a value that does not match its schema.

The library's own errors multiply with the branches of a schema (decision 49). So the value is
followed downwards by yes-or-no validations only: which keyword of the schema does it violate, and
which schema within that keyword; down to a keyword that holds no schema, or whose branches all
fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import jsonschema_rs

from sidecar.domain.cooperative import Cooperative
from sidecar.guardrails.json_schema.schema import (
    ASSERTIONS,
    LISTS,
    MAPS,
    ONE,
    Schema,
    SchemaPath,
    compile_schema,
    pointer_to,
    positions,
    resolved,
)
from sidecar.jsontext.strict import JsonValue

VALIDATED_AT_A_TIME: Final = 256
"""Items validated between two interruptions: some 0.1 ms."""

_ROOT: Final = "root"
_TOGETHER: Final = {
    "additionalProperties": ("properties", "patternProperties"),
    "items": ("prefixItems",),
    "contains": ("minContains", "maxContains"),
    "if": ("then", "else"),
}
"""Keywords whose meaning depends on others beside them."""
_DEPENDENT: Final = frozenset({"minContains", "maxContains", "then", "else"})
_EVERYTHING: Final = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_ORDER: Final = (
    ("$ref", *sorted(ASSERTIONS - _DEPENDENT), "properties", "patternProperties",
     "additionalProperties", "prefixItems", "items", "allOf", "anyOf", "oneOf", "not", "if",
     "contains", "propertyNames", "dependentSchemas", *sorted(_EVERYTHING))
)  # fmt: skip
"""In this order, so that a keyword comes after those it depends on."""
_CAPITAL: Final = re.compile(r"(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Violation:
    """The first place where a value violates its schema. `type` is like SCHEMA_REQUIRED."""

    type: str
    path: SchemaPath


@dataclass(frozen=True, slots=True)
class _Mismatch:
    """A schema, and the value at *path* to hold against it."""

    place: SchemaPath
    value: JsonValue
    path: SchemaPath


class ViolationLocator:
    """Locates the violation of a value that is known to have one; compiles each keyword once."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._known = positions(schema)
        self._root = _moved(schema)
        self._validators: dict[tuple[SchemaPath, str], jsonschema_rs.Draft202012Validator] = {}

    def locate(self, value: JsonValue) -> Cooperative[Violation]:
        """Follow the value down to the violation."""
        at = _Mismatch((), value, ())
        while True:
            schema = self._known[at.place]
            if isinstance(schema, bool):
                return Violation("SCHEMA_FALSE", at.path)
            for keyword in _ORDER:
                if keyword in schema:
                    if not self._fits(at.place, keyword, at.value):
                        break
                    yield
            else:
                return Violation("SCHEMA", at.path)
            compiled = len(self._validators)
            for number, one in enumerate(self._within(at, schema, keyword), start=1):
                if not self._fits(one.place, "", one.value):
                    at = one
                    break
                # To compile a large schema for one more place takes some milliseconds.
                if len(self._validators) > compiled or number % VALIDATED_AT_A_TIME == 0:
                    compiled = len(self._validators)
                    yield
            else:
                return Violation(f"SCHEMA_{_CAPITAL.sub('_', keyword).upper()}", at.path)
            yield

    def _within(
        self, at: _Mismatch, schema: Mapping[str, Any], keyword: str
    ) -> Iterator[_Mismatch]:
        """Yield the schemas that a keyword applies all of, each with its part of the value."""
        place, value, path = at.place, at.value, at.path
        match keyword, value:
            case "$ref", _:
                yield _Mismatch(resolved(schema["$ref"], self._known) or (), value, path)
            case "allOf", _:
                for index in range(len(schema["allOf"])):
                    yield _Mismatch((*place, "allOf", index), value, path)
            case "if", _:
                branch = "then" if self._fits((*place, "if"), "", value) else "else"
                yield _Mismatch((*place, branch), value, path)
            case "properties", dict():
                for name in schema["properties"]:
                    if name in value:
                        yield _Mismatch((*place, keyword, name), value[name], (*path, name))
            case "prefixItems", list():
                for index, item in enumerate(value[: len(schema["prefixItems"])]):
                    yield _Mismatch((*place, keyword, index), item, (*path, index))
            case "items", list():
                for index in range(len(schema.get("prefixItems", ())), len(value)):
                    yield _Mismatch((*place, keyword), value[index], (*path, index))
            case _:
                return

    def _fits(self, place: SchemaPath, keyword: str, value: JsonValue) -> bool:
        """Return whether *value* matches one keyword of a schema, or with "" the whole of it.

        The keyword is compiled with those it depends on, and with all it may refer to.
        """
        known = self._validators.get((place, keyword))
        if known is None:
            alone: dict[str, Any] = {"$defs": {_ROOT: self._root}}
            if not keyword or keyword in _EVERYTHING:
                pointer = quote(pointer_to((_ROOT, *place)), safe="/~")  # RFC 6901, section 6
                alone["$ref"] = "#/$defs" + pointer
            else:
                schema: Any = self._root
                for step in place:
                    schema = schema[step]
                wanted = (keyword, *_TOGETHER.get(keyword, ()))
                alone |= {one: schema[one] for one in wanted if one in schema}
            known = self._validators[place, keyword] = compile_schema(alone)
        return known.is_valid(value)


def _moved(schema: Schema) -> Any:
    """Return the schema as written under `$defs/root`, with its references moved there."""
    if isinstance(schema, bool):
        return schema
    moved: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "$ref":
            moved[keyword] = f"#/$defs/{_ROOT}{value[1:]}"
        elif keyword in ONE:
            moved[keyword] = _moved(value)
        elif keyword in LISTS:
            moved[keyword] = [_moved(one) for one in value]
        elif keyword in MAPS:
            moved[keyword] = {name: _moved(one) for name, one in value.items()}
        elif keyword != "$schema":
            moved[keyword] = value
    return moved
