from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.apis.response_structure import AnswerPiece
from sidecar.domain.cooperative import run_sync
from sidecar.domain.guardrail_settings import AnswerPart, JsonSchemaSettings
from sidecar.guardrails.json_schema.check import MAX_PATTERN_WORK, MAX_VALUES, JsonSchemaCheck
from sidecar.guardrails.json_schema.violations import VALIDATED_AT_A_TIME

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/item"}},
        "pair": {"prefixItems": [{"const": 1}, {"type": "string"}], "items": False},
        "paid": {"if": {"const": True}, "then": True, "else": {"type": "null"}},
        "mail": {"format": "email"},
        "kind": {"anyOf": [{"const": "a"}, {"const": "b"}]},
        "never": False,
        "a/b~": {"type": "integer"},
    },
    "required": ["items"],
    "additionalProperties": False,
    "$defs": {
        "item": {
            "allOf": [
                {"properties": {"sku": {"pattern": "^[A-Z]{3}$"}}, "required": ["sku"]},
                {"properties": {"price": {"type": "number", "exclusiveMinimum": 0}}},
            ],
            "patternProperties": {"^x-": {"type": "string"}},
            "propertyNames": {"maxLength": 8},
            "dependentRequired": {"price": ["sku"]},
            "unevaluatedProperties": False,
        }
    },
}


def piece(
    text: str, *, of: AnswerPart = AnswerPart.CONTENT, tool: str | None = None
) -> AnswerPiece:
    return AnswerPiece(of, text.encode("utf-8", "surrogatepass"), "choices[0]", tool)


def found(
    *pieces: AnswerPiece, schema: dict[str, Any] | None = None, **settings: Any
) -> list[tuple[str, str | None]]:
    text = json.dumps(ORDER if schema is None else schema)
    check = JsonSchemaCheck(JsonSchemaSettings(text, **settings))
    outcome = run_sync(check.judge("order", pieces))
    return [(one.type, one.place) for one in outcome]


def item(**fields: object) -> str:
    return json.dumps({"items": [{"sku": "ABC"}, fields]})


@pytest.mark.parametrize(
    ("text", "type_", "place"),
    [
        ("[]", "SCHEMA_TYPE", ""),
        ("{}", "SCHEMA_REQUIRED", ""),
        ('{"items": []}', "SCHEMA_MIN_ITEMS", "/items"),
        ('{"items": {}}', "SCHEMA_TYPE", "/items"),
        ('{"items": [{"sku": "ABC"}], "never": 1}', "SCHEMA_FALSE", "/never"),
        ('{"items": [{"sku": "ABC"}], "bob": 1}', "SCHEMA_ADDITIONAL_PROPERTIES", ""),
        ('{"items": [{"sku": "ABC"}], "pair": [2]}', "SCHEMA_CONST", "/pair/0"),
        ('{"items": [{"sku": "ABC"}], "pair": [1, 2]}', "SCHEMA_TYPE", "/pair/1"),
        ('{"items": [{"sku": "ABC"}], "pair": [1, "", 3]}', "SCHEMA_FALSE", "/pair/2"),
        ('{"items": [{"sku": "ABC"}], "paid": 3}', "SCHEMA_TYPE", "/paid"),
        ('{"items": [{"sku": "ABC"}], "mail": "bob"}', "SCHEMA_FORMAT", "/mail"),
        ('{"items": [{"sku": "ABC"}], "kind": "c"}', "SCHEMA_ANY_OF", "/kind"),
        ('{"items": [{"sku": "ABC"}], "a/b~": "c"}', "SCHEMA_TYPE", "/a~1b~0"),
        (item(), "SCHEMA_REQUIRED", "/items/1"),
        (item(sku="abc"), "SCHEMA_PATTERN", "/items/1/sku"),
        (item(sku="ABC", price=0), "SCHEMA_EXCLUSIVE_MINIMUM", "/items/1/price"),
        (item(sku="ABC", secret=1), "SCHEMA_UNEVALUATED_PROPERTIES", "/items/1"),
        (item(sku="ABC", **{"x-a": 1}), "SCHEMA_PATTERN_PROPERTIES", "/items/1"),
        (item(sku="ABC", confidential=1), "SCHEMA_PROPERTY_NAMES", "/items/1"),
    ],
)
def test_a_finding_names_the_keyword_and_the_place(text: str, type_: str, place: str) -> None:
    """By names that the schema has; a key or value that only the answer has is not repeated."""
    assert found(piece(text)) == [(type_, f"choices[0]{place}")]


@pytest.mark.parametrize(
    "text",
    [
        '{"items": [{"sku": "ABC", "price": 1.5, "x-note": "é😀"}]}',
        ' {"items": [{"sku": "ABC"}], "pair": [1, "b"], "paid": true, "kind": "b"}\n',
        '{"items": [{"sku": "ABC"}], "mail": "bob@example.com", "paid": null}',
    ],
)
def test_what_fits_is_no_finding(text: str) -> None:
    """White space around it is JSON as well."""
    assert found(piece(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "Here you are: {}", "```json\n{}\n```", '{"a": 1', "{} {}", "{'a': 1}", "NaN",
        '{"a": 1e999}', '{"items": [], "items": [{"sku": "ABC"}]}', "\ufeff{}", '"\\ud800"',
        '{"a": 1,}', "\x00", '"\n"', "[" + "9" * 5_000 + "]",
    ],
)  # fmt: skip
def test_what_two_parsers_could_read_in_two_ways_is_no_json(text: str) -> None:
    """A key that stands twice would show us one value, and the client's program another."""
    assert found(piece(text), schema={}) == [("INVALID_JSON", "choices[0]")]


@pytest.mark.parametrize(
    ("text", "settings", "type_"),
    [
        ('"' + "x" * 100 + '"', {"max_bytes": 100}, "JSON_TOO_LARGE"),
        ('"' + "x" * 98 + '"', {"max_bytes": 100}, None),
        ("[[[1]]]", {"max_depth": 3}, None),
        ("[[[[1]]]]", {"max_depth": 3}, "JSON_TOO_DEEP"),
        ('[{"a": [{}]}]', {"max_depth": 3}, "JSON_TOO_DEEP"),
        ("[" * 100_000, {"max_bytes": 262_144}, "JSON_TOO_LARGE"),
        ("[" * 15_000, {}, "JSON_TOO_DEEP"),
        ('{"a":' * 10_000, {}, "JSON_TOO_DEEP"),
        ("[" + "1," * (MAX_VALUES - 2) + "1]", {}, None),
        ("[" + "1," * MAX_VALUES + "1]", {}, "JSON_TOO_LARGE"),
        ('"' + "x" * 10_000_000 + '"', {}, "JSON_TOO_LARGE"),
    ],
)  # fmt: skip
def test_a_text_beyond_a_bound_is_a_finding(
    text: str, settings: dict[str, int], type_: str | None
) -> None:
    """Before it is read, however it is written; what is over a bound is a finding, not a pass."""
    assert [one for one, _ in found(piece(text), schema={}, **settings)] == (
        [] if type_ is None else [type_]
    )


def test_the_heavier_a_schema_the_less_of_a_text_it_may_look_at() -> None:
    """Values times keywords or fractions, and bytes times expressions, are what judging takes."""
    heavy = {"items": {"allOf": [{"minimum": least} for least in range(150)]}}
    cents = {"items": {"multipleOf": 0.01}}
    patterns = {"items": {"anyOf": [{"pattern": f"{letter}$"} for letter in "abcdefgh"]}}

    assert found(piece(json.dumps([200] * 1_000)), schema=heavy) == []
    assert found(piece(json.dumps([200] * 9_000)), schema=heavy) == [
        ("JSON_TOO_LARGE", "choices[0]")
    ]
    assert found(piece(json.dumps([0.5] * 900)), schema=cents) == []
    assert found(piece(json.dumps([0.5] * 1_000)), schema=cents) == [
        ("JSON_TOO_LARGE", "choices[0]")
    ]
    assert found(piece(json.dumps(["a" * (MAX_PATTERN_WORK // 8 - 10)])), schema=patterns) == []
    assert found(piece(json.dumps(["a" * (MAX_PATTERN_WORK // 8)])), schema=patterns) == [
        ("JSON_TOO_LARGE", "choices[0]")
    ]


def test_each_text_that_does_not_fit_is_a_finding_of_its_own() -> None:
    """Of each the first thing that is wrong; the part says which text."""
    check = JsonSchemaCheck(JsonSchemaSettings('{"type": "integer"}'))
    pieces = (piece("1"), piece('"a"'), piece("x"))

    outcome = run_sync(check.judge("order", pieces))

    assert [(one.part, one.type, one.start, one.end) for one in outcome] == [
        (1, "SCHEMA_TYPE", 0, 3),
        (2, "INVALID_JSON", 0, 1),
    ]


def test_arguments_are_judged_where_they_are_asked_for_and_content_otherwise() -> None:
    """A call whose tool nobody names could be any, so that it is judged."""
    arguments = AnswerPart.ARGUMENTS
    pieces = (
        piece('"said"'),
        piece('"a"', of=arguments, tool="send_mail"),
        piece('"b"', of=arguments, tool="search"),
        piece('"c"', of=arguments),
    )

    def parts(**settings: Any) -> list[int]:
        check = JsonSchemaCheck(JsonSchemaSettings('{"type": "object"}', **settings))
        return [one.part for one in run_sync(check.judge("order", pieces))]

    assert parts() == [0]
    assert parts(of=arguments) == [1, 2, 3]
    assert parts(of=arguments, tools=("send_mail",)) == [1, 3]


def test_looking_for_the_place_yields_between_levels_and_items() -> None:
    """A long way down, with much to look at on each level, holds nothing for long."""
    value: Any = {"v": [1] * (10 * VALIDATED_AT_A_TIME) + ["x"]}
    for _ in range(20):
        value = {"x": value}
    node = {"properties": {"x": {"$ref": "#"}, "v": {"items": {"type": "integer"}}}}
    check = JsonSchemaCheck(JsonSchemaSettings(json.dumps(node)))

    steps = check.judge("order", (piece(json.dumps(value)),))

    assert sum(1 for _ in steps) > 20 + 10


def test_looking_for_the_place_yields_after_each_schema_that_it_compiles() -> None:
    """For the first violation a large schema is compiled for one property after the other."""
    names = [f"field {number}" for number in range(100)]
    schema = {"properties": {name: {"type": "integer"} for name in names}}
    check = JsonSchemaCheck(JsonSchemaSettings(json.dumps(schema)))
    text = json.dumps({**dict.fromkeys(names, 1), names[-1]: "x"})

    assert sum(1 for _ in check.judge("order", (piece(text),))) > len(names)


@pytest.mark.parametrize("name", ["größe", "first name", "日本", "a%20b", '^|{}"<>#[]\\', "a/b~c"])
def test_a_property_may_have_any_name(name: str) -> None:
    """Schemas refer to each other by URI, in which not every sign may stand as it is."""
    schema = {"properties": {name: {"properties": {name: {"type": "integer"}}}}}
    pointer = name.replace("~", "~0").replace("/", "~1")

    assert found(piece(json.dumps({name: {name: "x"}})), schema=schema) == [
        ("SCHEMA_TYPE", f"choices[0]/{pointer}/{pointer}")
    ]
