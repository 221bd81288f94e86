"""The verdict of `json_schema`: the same however an answer is cut, and that of another library."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.dialects.answer_structure import AnswerPiece
from sidecar.domain.local_guardrails import AnswerPart, JsonSchemaSettings
from sidecar.guardrails.json_schema.check import JsonSchemaCheck
from sidecar.guardrails.json_schema.schema_check import schema_faults
from sidecar.guardrails.slices import run_to_end
from tests.support.answers import APIS, effective, judged_at_once, judgement

POLICY = effective(
    "[{name: order, type: json_schema, schema: {type: object, required: [a], "
    "properties: {a: {type: [string, 'null']}, b: {type: array, items: {type: integer}}}}}]"
)
NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b", "é😀"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
KEYWORDS = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "minimum": st.integers(-2, 2),
        "maxLength": st.integers(0, 2),
        "pattern": st.sampled_from(["^a", "b$", "^$", "é"]),
        "minItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=1), max_size=2),
    },
)


def holding(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return schemas that hold schemas."""
    branches = st.lists(inner, min_size=1, max_size=2)
    return st.tuples(
        KEYWORDS,
        st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(NAMES, inner, max_size=2),
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "c"]), inner),
                "additionalProperties": inner,
                "propertyNames": inner,
                "unevaluatedProperties": inner,
                "dependentSchemas": st.dictionaries(NAMES, inner, max_size=1),
                "prefixItems": branches,
                "items": inner,
                "contains": inner,
                "minContains": st.integers(0, 2),
                "unevaluatedItems": inner,
                "allOf": branches,
                "anyOf": branches,
                "oneOf": branches,
                "not": inner,
                "if": inner,
                "then": inner,
                "else": inner,
                "$ref": st.sampled_from(["#/$defs/one", "#/$defs/two"]),
            },
        ),
    ).map(lambda both: both[0] | both[1])


SCHEMAS = st.recursive(st.booleans() | KEYWORDS, holding, max_leaves=4)
ROOTS = st.tuples(holding(SCHEMAS), KEYWORDS, KEYWORDS).map(
    lambda three: three[0] | {"$defs": {"one": three[1], "two": three[2]}}
)


@settings(max_examples=60, deadline=None)
@given(schema=ROOTS, value=VALUES)
def test_another_library_comes_to_the_same_verdict(schema: dict[str, Any], value: Any) -> None:
    """And a misfit has a place that is there, and a keyword that the schema has."""
    assert schema_faults(schema, max_depth=32) == ()
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    check = JsonSchemaCheck(JsonSchemaSettings(json.dumps(schema)))
    text = json.dumps(value).encode()

    outcome = run_to_end(check.judge("x", [AnswerPiece(AnswerPart.CONTENT, text, "")]))

    assert (outcome.findings == ()) is expected
    for finding in outcome.findings:
        assert finding.place is not None
        found = value
        for step in finding.place.split("/")[1:]:
            found = found[int(step)] if isinstance(found, list) else found[step]
        assert finding.type != "SCHEMA"


TEXTS = st.sampled_from(
    [
        '{"a": "x"}', '{"a": null, "b": [1, 2]}', '{"a": 1}', '{"b": []}', '{"a": "é😀"}', "prose",
        '{"a": "x", "a": null}', '{"a": "x"', "[]", '{"a": "\\ud83d\\ude00", "b": ["x"]}',
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    "api", ["chat", "completion", "responses", "messages", "gemini array", "bedrock"]
)
@settings(max_examples=40, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 40), max_size=8))
def test_the_verdict_does_not_depend_on_where_a_text_is_cut(
    api: str, *, text: str, cuts: list[int]
) -> None:
    """A provider sends it in any pieces; what its client joins is one text."""
    borders = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    form, stream = APIS[api].form, APIS[api].stream

    results = []
    for cut in ([text], pieces):
        judge = judgement(POLICY, form)
        released = judged_at_once(judge, stream(cut))
        (result,) = judge.results()
        places = [(one.type, one.place) for one in result.findings]
        results.append((released.error, result.verdict, places))

    assert results[0] == results[1]
