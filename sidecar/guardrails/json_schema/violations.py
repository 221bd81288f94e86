"""Locates the violation in a document that does not match its schema."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs

from sidecar.guardrails.cooperative import Cooperative
from sidecar.guardrails.json_schema.schema import (
    ASSERTIONS,
    LISTS,
    MAPS,
    ONE,
    Schema,
    SchemaPath,
    compile_schema,
    positions,
    resolved,
)
from sidecar.jsontext.strict import JsonValue

ASKED_AT_A_TIME: Final = 256
"""Items looked at between two interruptions: some 0.1 ms."""

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
_ASKED: Final = (
    ("$ref", *sorted(ASSERTIONS - _DEPENDENT), "properties", "patternProperties",
     "additionalProperties", "prefixItems", "items", "allOf", "anyOf", "oneOf", "not", "if",
     "contains", "propertyNames", "dependentSchemas", *sorted(_EVERYTHING))
)  # fmt: skip
"""In this order, so that a keyword comes after those it depends on."""
_CAPITAL: Final = re.compile(r"(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Violation:
    """The first place where a value does not fit. `type` is a finding's: SCHEMA_REQUIRED."""

    type: str
    path: SchemaPath


@dataclass(frozen=True, slots=True)
class _Way:
    """A schema, and the value that does not fit it."""

    place: SchemaPath
    value: JsonValue
    path: SchemaPath


class ViolationLocator:
    """Finds the violation of a value that is known not to fit; compiles what it asks by once."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._known = positions(schema)
        self._root = _moved(schema)
        self._asked: dict[tuple[SchemaPath, str], jsonschema_rs.Draft202012Validator] = {}

    def locate(self, value: JsonValue) -> Cooperative[Violation]:
        """Follow the value down to where it does not fit."""
        way = _Way((), value, ())
        while True:
            schema = self._known[way.place]
            if isinstance(schema, bool):
                return Violation("SCHEMA_FALSE", way.path)
            keyword = yield from self._keyword(way, schema)
            if keyword is None:
                return Violation("SCHEMA", way.path)
            further = yield from self._further(way, schema, keyword)
            if further is None:
                return Violation(f"SCHEMA_{_CAPITAL.sub('_', keyword).upper()}", way.path)
            way = further
            yield

    def _keyword(self, way: _Way, schema: Mapping[str, Any]) -> Cooperative[str | None]:
        for keyword in _ASKED:
            if keyword in schema:
                if not self._fits(way.place, keyword, way.value):
                    return keyword
                yield
        return None

    def _further(
        self, way: _Way, schema: Mapping[str, Any], keyword: str
    ) -> Cooperative[_Way | None]:
        """Return the first schema within that the value, or what is in it, does not fit."""
        for number, one in enumerate(self._within(way, schema, keyword), start=1):
            if not self._fits(one.place, "", one.value):
                return one
            if number % ASKED_AT_A_TIME == 0:
                yield
        return None

    def _within(self, way: _Way, schema: Mapping[str, Any], keyword: str) -> Iterator[_Way]:
        place, value, path = way.place, way.value, way.path
        match keyword, value:
            case "$ref", _:
                target = resolved(schema["$ref"], self._known)
                yield _Way(target or (), value, path)
            case "allOf", _:
                branches = range(len(schema["allOf"]))
                yield from (_Way((*place, "allOf", index), value, path) for index in branches)
            case "if", _:
                branch = "then" if self._fits((*place, "if"), "", value) else "else"
                yield _Way((*place, branch), value, path)
            case "properties", dict():
                yield from _properties(way, schema["properties"], value)
            case (("prefixItems" | "items"), list()):
                yield from _items(way, schema, keyword, value)
            case _:
                return

    def _fits(self, place: SchemaPath, keyword: str, value: JsonValue) -> bool:
        """Ask whether *value* fits one keyword of a schema, or the whole of it."""
        known = self._asked.get((place, keyword))
        if known is None:
            known = compile_schema(self._alone(place, keyword))
            self._asked[place, keyword] = known
        return known.is_valid(value)

    def _alone(self, place: SchemaPath, keyword: str) -> Mapping[str, Any]:
        whole = {"$ref": _reference((_ROOT, *place)), "$defs": {_ROOT: self._root}}
        if not keyword or keyword in _EVERYTHING:
            return whole
        schema: Any = self._root
        for step in place:
            schema = schema[step]
        wanted = (keyword, *_TOGETHER.get(keyword, ()))
        return {"$defs": whole["$defs"]} | {one: schema[one] for one in wanted if one in schema}


def _properties(way: _Way, names: Iterable[str], value: Mapping[str, JsonValue]) -> Iterator[_Way]:
    for name in names:
        if name in value:
            yield _Way((*way.place, "properties", name), value[name], (*way.path, name))


def _items(
    way: _Way, schema: Mapping[str, Any], keyword: str, value: Sequence[JsonValue]
) -> Iterator[_Way]:
    leading = len(schema.get("prefixItems", ()))
    for index, item in enumerate(value):
        if keyword == "prefixItems" and index < leading:
            yield _Way((*way.place, keyword, index), item, (*way.path, index))
        elif keyword == "items" and index >= leading:
            yield _Way((*way.place, keyword), item, (*way.path, index))


def _reference(place: Sequence[str | int]) -> str:
    steps = (str(one).replace("~", "~0").replace("/", "~1") for one in place)
    return "#/$defs/" + "/".join(one.replace("%", "%25") for one in steps)


def _moved(schema: Schema) -> Any:
    """Return the schema as it is to be written under `$defs/root`: with its references moved."""
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
