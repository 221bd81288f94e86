from __future__ import annotations

from typing import Any

import pytest

from sidecar.guardrails.json_schema.complexity import (
    MAX_PATTERNS,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMAS,
    schema_faults,
)
from sidecar.guardrails.json_schema.schema import FORMATS

DRAFT = "https://json-schema.org/draft/2020-12/schema"
TREE = {
    "$defs": {"node": {"type": "object", "properties": {"left": {"$ref": "#/$defs/node"},
                                                        "right": {"$ref": "#/$defs/node"}}}},
    "$ref": "#/$defs/node",
}  # fmt: skip


def doubling(levels: int) -> dict[str, Any]:
    """Return a schema whose two branches look at the same property, one level after another."""
    branch = {
        f"a{level}": {
            "anyOf": [
                {"properties": {"x": {"$ref": f"#/$defs/a{level + 1}"}}},
                {"minProperties": 1, "properties": {"x": {"$ref": f"#/$defs/a{level + 1}"}}},
            ]
        }
        for level in range(levels)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**branch, f"a{levels}": {"const": 1}}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": DRAFT, "title": "an order", "type": "object"},
        TREE,
        {"type": "object", "properties": {"0": {"type": "integer"}},
         "additionalProperties": {"$ref": "#/properties/0"}},
        {"prefixItems": [{"const": 1}], "items": {"$ref": "#/prefixItems/0"}},
        {"properties": {"a/b~c": {}}, "items": {"$ref": "#/properties/a~1b~0c"}},
        {"anyOf": [{"items": {"$ref": "#"}}, {"additionalProperties": {"$ref": "#"}},
                   {"type": ["string", "null"]}]},
        {"pattern": r"^[\w.+-]+@[\w-]+\.[\w.]+$"},
        {"enum": ["$ref", {"$ref": "https://example.com"}], "const": {"nullable": 1}},
        {"items": {"format": min(FORMATS)}, "default": {"properties": 3}},
        {"anyOf": [{"properties": {"n": {"multipleOf": 0.01}}}] * 20},
        doubling(4),
    ],
)  # fmt: skip
def test_a_schema_that_an_answer_can_be_judged_by_has_no_faults(schema: dict[str, Any]) -> None:
    """What stands in a value, a default or a name is no keyword."""
    assert schema_faults(schema, max_depth=32) == ()


@pytest.mark.parametrize(
    ("schema", "place", "words"),
    [
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ("$schema",), "another draft"),
        ({"propertys": {}}, ("propertys",), "unknown keyword"),
        ({"items": {"nullable": True}}, ("items", "nullable"), "unknown keyword"),
        ({"contentEncoding": "base64"}, ("contentEncoding",), "would not be checked"),
        ({"$dynamicRef": "#a"}, ("$dynamicRef",), "unknown keyword"),
        ({"$id": "https://example.com/a"}, ("$id",), "unknown keyword"),
        ({"items": {"$schema": DRAFT}}, ("items", "$schema"), "at the top only"),
        ({"$ref": "https://example.com/a.json"}, ("$ref",), "nothing is ever fetched"),
        ({"$ref": "file:///etc/passwd"}, ("$ref",), "nothing is ever fetched"),
        ({"$ref": "a.json#/x"}, ("$ref",), "nothing is ever fetched"),
        ({"$ref": "#/$defs/none"}, ("$ref",), "no schema at"),
        ({"default": {"a": {}}, "$ref": "#/default/a"}, ("$ref",), "no schema at"),
        ({"format": "emial"}, ("format",), "no such format"),
        ({"format": "regex"}, ("format",), "no such format"),
        ({"type": None}, ("type",), "must not be empty"),
        ({"type": "strng"}, ("type",), "is no value of `type`"),
        ({"properties": {"a": 3}}, ("properties", "a"), "is no value of `a`"),
        ({"properties": {"0": 3}}, ("properties", "0"), "is no value of `0`"),
        ({"properties": {"0": {"pattern": "("}}}, ("properties", "0", "pattern"), "no regular"),
        ({"prefixItems": [{}, {"type": None}]}, ("prefixItems", 1, "type"), "must not be empty"),
        ({"minimum": "3"}, ("minimum",), "is no value of `minimum`"),
        ({"items": {"pattern": "(?=a)"}}, ("items", "pattern"), "no regular expression of linear"),
        ({"pattern": r"(a)\1"}, ("pattern",), "no regular expression of linear"),
        ({"pattern": "[ab]*a[ab]{2000}"}, ("pattern",), "no regular expression of linear"),
        ({"patternProperties": {"(": True}}, ("patternProperties", "("), "no regular expression"),
        ({"$ref": "#"}, (), "never ends"),
        ({"not": {"$ref": "#"}}, (), "never ends"),
        ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
         ("$defs", "a"), "never ends"),
        (doubling(24), ("$defs", "a8"), "8 levels deep would be looked at too often"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, (), "is longer than"),
        ({"anyOf": [{}] * MAX_SCHEMAS}, (), "schemas"),
        ({"anyOf": [{"pattern": "a"}] * (MAX_PATTERNS + 1)}, (), "regular expressions"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(
    schema: dict[str, Any], place: tuple[str | int, ...], words: str
) -> None:
    """An author is told before anything is in force, and nothing is fetched to find out."""
    faults = schema_faults(schema, max_depth=32)

    assert [one.place for one in faults] == [place]
    assert words in faults[0].problem


def test_a_lower_depth_makes_room_for_a_schema_that_doubles() -> None:
    """As the hint says: what no answer can reach is not looked at."""
    assert schema_faults(doubling(24), max_depth=6) == ()
    assert schema_faults(doubling(24), max_depth=24) != ()
