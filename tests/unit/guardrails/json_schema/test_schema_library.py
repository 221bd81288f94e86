"""What we rely on of the library that validates; a new version must still do it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jsonschema_rs
import pytest

from sidecar.guardrails.json_schema.schema import compile_schema
from tests.support.cpu_time import least_seconds

BRANCHES = [
    {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}},
    {"type": "object", "minProperties": 1, "properties": {"x": {"$ref": "#/$defs/a"}}},
]
EXPLODING: dict[str, dict[str, Any]] = {
    "any": {"anyOf": BRANCHES},
    "one": {"oneOf": BRANCHES},
    "all": {"allOf": BRANCHES, "unevaluatedProperties": False},
    "not": {"not": {"not": BRANCHES[0]}, "if": BRANCHES[0], "then": BRANCHES[1]},
}


def nested(levels: int, innermost: Any) -> Any:
    value = innermost
    for _ in range(levels):
        value = {"x": value}
    return value


@pytest.mark.parametrize("kind", EXPLODING)
@pytest.mark.parametrize("innermost", [{}, "no"])
def test_a_schema_that_refers_to_itself_looks_at_each_value_once(
    kind: str, innermost: object
) -> None:
    """Two looks for each level would take a thousand times as long at ten levels more."""
    validator = compile_schema({"$ref": "#/$defs/a", "$defs": {"a": EXPLODING[kind]}})
    seconds = [
        least_seconds(partial(validator.is_valid, nested(levels, innermost)), tries=9)
        for levels in (10, 20)
    ]
    assert seconds[1] < 32 * seconds[0]


@pytest.mark.parametrize(
    "reference", ["https://example.com/a.json", "file:///etc/hostname", "a.json"]
)
def test_a_reference_to_another_document_is_refused_and_not_fetched(reference: str) -> None:
    """Neither a server nor a file, whoever wrote the reference."""
    with pytest.raises(jsonschema_rs.ValidationError):
        compile_schema({"$ref": reference})


def test_patterns_take_linear_time() -> None:
    """The classic that doubles with every letter."""
    validator = compile_schema({"pattern": "^(a+)+$"})
    texts = ["a" * length + "b" for length in (12_500, 50_000)]
    assert not any(map(validator.is_valid, texts))
    short, long = (least_seconds(partial(validator.is_valid, text)) for text in texts)
    assert long < 10 * short


def test_a_format_of_a_schema_is_checked() -> None:
    """Draft 2020-12 leaves that open; what is written in a policy is meant."""
    assert not compile_schema({"format": "email"}).is_valid("nobody")
    assert compile_schema({"format": "email"}).is_valid("bob@example.com")
