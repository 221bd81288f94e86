"""Keywords and subschemas of JSON Schema, and the validators built from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import jsonschema_rs

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

SAME_VALUE: Final = frozenset({"not", "if", "then", "else", "propertyNames"})
"""Hold one schema for the value itself; names of properties are part of it here."""
SAME_VALUE_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf"})
SAME_VALUE_MAPS: Final = frozenset({"dependentSchemas"})

CHILD: Final = frozenset(
    {"additionalProperties", "unevaluatedProperties", "items", "contains", "unevaluatedItems"}
)
"""Hold one schema for the properties or items of the value."""
CHILD_LISTS: Final = frozenset({"prefixItems"})
CHILD_MAPS: Final = frozenset({"properties", "patternProperties"})

ASSERTIONS: Final = frozenset(
    """
    type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength
    minLength pattern maxItems minItems uniqueItems maxContains minContains maxProperties
    minProperties required dependentRequired format
    """.split()  # noqa: SIM905 - a list would be one word a line
)
NOTES: Final = frozenset(
    {
        "title", "description", "default", "deprecated", "readOnly", "writeOnly", "examples",
        "$comment", "$schema",
    }
)  # fmt: skip

ONE: Final = SAME_VALUE | CHILD
LISTS: Final = SAME_VALUE_LISTS | CHILD_LISTS
MAPS: Final = SAME_VALUE_MAPS | CHILD_MAPS | {"$defs"}
KNOWN: Final = ONE | LISTS | MAPS | ASSERTIONS | NOTES | {"$ref"}

HINTS: Final = {
    "$id": "leave it out: references stay within the schema",
    "$anchor": "refer by path, `#/$defs/NAME`",
    "$dynamicRef": "write `$ref`",
    "$dynamicAnchor": "refer by path, `#/$defs/NAME`",
    "definitions": "write `$defs`, and `#/$defs/NAME` in references",
    "dependencies": "write `dependentRequired` or `dependentSchemas`",
    "additionalItems": "write `prefixItems` and `items`",
    "nullable": 'write `type: [..., "null"]`',
    "discriminator": "leave it out: a `const` in each branch says the same",
    "example": "write `examples`",
    "contentEncoding": "leave it out: it is never checked",
    "contentMediaType": "leave it out: it is never checked",
    "contentSchema": "leave it out: it is never checked",
}
"""Hints for keywords of other drafts, of OpenAPI, and for those that check nothing."""

FORMATS: Final = frozenset(
    {
        "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri",
        "uri-reference", "uuid", "json-pointer",
    }
)  # fmt: skip
"""The formats that are checked, without `regex`: an answer could choose expressions to compile."""


SchemaPath: TypeAlias = "tuple[str | int, ...]"
"""Steps from the root of a schema, or of an answer."""
Schema: TypeAlias = "Mapping[str, Any] | bool"

ROOT: Final[SchemaPath] = ()


@dataclass(frozen=True, slots=True)
class Subschemas:
    """The places of the schemas that one schema applies to the properties and items of a value."""

    named: Mapping[str, SchemaPath]
    every_property: tuple[SchemaPath, ...]
    """May apply to any property: by pattern, or unless it was evaluated."""
    other: tuple[SchemaPath, ...]
    """Applies to properties that are not in `named`."""
    leading: tuple[SchemaPath, ...]
    items: tuple[SchemaPath, ...]
    every_item: tuple[SchemaPath, ...]

    def at(self, step: str | int | None) -> tuple[SchemaPath, ...]:
        """Return the schemas for a property, an item, or with None an unnamed property."""
        if isinstance(step, int):
            own = (self.leading[step],) if step < len(self.leading) else self.items
            return (*own, *self.every_item)
        known = None if step is None else self.named.get(step)
        return (*(self.other if known is None else (known,)), *self.every_property)

    def all(self) -> tuple[SchemaPath, ...]:
        """Return every place."""
        return (
            *self.named.values(), *self.every_property, *self.other,
            *self.leading, *self.items, *self.every_item,
        )  # fmt: skip


def positions(root: Schema) -> dict[SchemaPath, Schema]:
    """Return every schema in *root*, itself included."""
    return dict(_walk(ROOT, root))


def pointer_to(path: SchemaPath) -> str:
    """Return a path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(one).replace("~", "~0").replace("/", "~1") for one in path)


def target_of(reference: str) -> SchemaPath | None:
    """Return the place that a reference names, None if it leads out of the document."""
    if reference in {"#", "#/"}:
        return ROOT if reference == "#" else None
    if not reference.startswith("#/"):
        return None
    steps = unquote(reference[2:]).split("/")
    return tuple(one.replace("~1", "/").replace("~0", "~") for one in steps)


def resolved(reference: str, known: Mapping[SchemaPath, Schema]) -> SchemaPath | None:
    """Return the place in *known* that a reference names, None if it names no schema."""
    wanted = target_of(reference)
    if wanted is None or wanted in known:
        return wanted
    numbered = tuple(int(one) if str(one).isdecimal() else one for one in wanted)
    if numbered in known:
        return numbered
    # A property may be called 0; a list of schemas has numbers.
    spelt = {tuple(map(str, place)): place for place in known}
    return spelt.get(tuple(map(str, wanted)))


def same_value(place: SchemaPath, known: Mapping[SchemaPath, Schema]) -> list[SchemaPath]:
    """Return the schemas that the one at *place* applies to the same value."""
    schema = known[place]
    if isinstance(schema, bool):
        return []
    found: list[SchemaPath] = []
    for keyword, value in schema.items():
        if keyword == "$ref":
            target = resolved(value, known)
            found += () if target is None else (target,)
        elif keyword in SAME_VALUE:
            found.append((*place, keyword))
        elif keyword in SAME_VALUE_LISTS | SAME_VALUE_MAPS:
            found += [(*place, keyword, step) for step in _steps(value)]
    return found


def subschemas(place: SchemaPath, schema: Schema) -> Subschemas:
    """Return the schemas that the one at *place* applies to properties and items of the value."""
    given: Mapping[str, Any] = {} if isinstance(schema, bool) else schema

    def one(keyword: str) -> tuple[SchemaPath, ...]:
        return ((*place, keyword),) if keyword in given else ()

    def several(keyword: str) -> dict[str | int, SchemaPath]:
        return {step: (*place, keyword, step) for step in _steps(given.get(keyword, {}))}

    return Subschemas(
        named={str(name): at for name, at in several("properties").items()},
        every_property=(*several("patternProperties").values(), *one("unevaluatedProperties")),
        other=one("additionalProperties"),
        leading=tuple(several("prefixItems").values()),
        items=one("items"),
        every_item=(*one("contains"), *one("unevaluatedItems")),
    )


def _walk(place: SchemaPath, schema: Schema) -> Iterator[tuple[SchemaPath, Schema]]:
    yield place, schema
    if isinstance(schema, bool):
        return
    for keyword, value in schema.items():
        if keyword in ONE:
            yield from _walk((*place, keyword), value)
        elif keyword in LISTS | MAPS:
            for step in _steps(value):
                yield from _walk((*place, keyword, step), value[step])


def _steps(value: Any) -> Iterator[str | int]:
    yield from value if isinstance(value, Mapping) else range(len(value))


MAX_PATTERN_BYTES: Final = 10_000
"""Of one compiled expression; larger ones are refused. The worst that fits takes 0.3 µs for each
character (`[ab]*a[ab]{50}`), a usual one a hundredth of that."""


def compile_schema(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Compile a schema of draft 2020-12.

    Raises:
        jsonschema_rs.ValidationError: it cannot be compiled; the path says where.
    """
    return jsonschema_rs.Draft202012Validator(
        json.dumps(schema),
        offline=True,
        validate_formats=True,
        ignore_unknown_formats=False,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
    )
