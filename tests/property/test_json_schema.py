"""The verdict of `json_schema`: the same however an answer is cut, and that of another library."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.apis.response_structure import AnswerPiece
from sidecar.domain.cooperative import run_sync
from sidecar.domain.guardrail_settings import AnswerPart, JsonSchemaSettings
from sidecar.guardrails.json_schema.check import JsonSchemaCheck
from sidecar.guardrails.json_schema.complexity import schema_faults
from sidecar.guardrails.json_schema.schema import KNOWN
from tests.support.answers import APIS, effective, judged_at_once, judgement

POLICY = effective(
    "[{name: order, type: json_schema, schema: {type: object, required: [a], "
    "properties: {a: {type: [string, 'null']}, b: {type: array, items: {type: integer}}}}}]"
)
NAMES = ("a", "b", "0", "a/b~%")
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
SCALARS = (None, True, False, 0, 1, -2, 1.5, "", "a", "ab", "é😀")
BRANCHES = ("allOf", "anyOf", "oneOf", "prefixItems")
MAPS = {"properties": NAMES, "dependentSchemas": NAMES, "patternProperties": ("^a", "[0-9]")}
ONE = ("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else",
       "unevaluatedProperties", "unevaluatedItems")  # fmt: skip


class Made:
    """Schemas and values made from a seed: drawn piece by piece they take ten times as long."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - the same every time

    def value(self, depth: int) -> Any:
        """Return a value that a schema of these names may be about."""
        kind = self._random.random() if depth else 0
        if kind < 0.4:
            return self._random.choice(SCALARS)
        if kind < 0.6:
            return [self.value(depth - 1) for _ in range(self._random.randint(0, 3))]
        count = self._random.randint(0, 3)
        return {name: self.value(depth - 1) for name in self._random.sample(NAMES, count)}

    def root(self) -> dict[str, Any]:
        """Return a schema whose definitions refer to it and to themselves, within values alone."""
        items = {"items": {"$ref": "#"}}
        properties = {"properties": {"a": {"$ref": "#/$defs/two"}}}
        two: dict[str, Any] = self._random.choice([items, properties])
        schema: dict[str, Any] = self.schema(3)
        return schema | {"$defs": {"one": self._flat(), "two": self._flat() | two}}

    def schema(self, depth: int) -> Any:
        """Return a schema, with others in it down to *depth*."""
        if not depth:
            return self._random.choice([True, False, {"$ref": "#/$defs/one"}, self._flat()])
        made = self._flat()
        for _ in range(self._random.randint(0, 3)):
            keyword = self._random.choice((*BRANCHES, *MAPS, *ONE, "$ref"))
            if keyword == "$ref":
                made[keyword] = self._random.choice(["#/$defs/one", "#/$defs/two"])
            elif keyword in BRANCHES:
                made[keyword] = [self.schema(depth - 1), self.schema(depth - 1)]
            elif keyword in MAPS:
                name = self._random.choice(MAPS[keyword])
                made[keyword] = {name: self.schema(depth - 1)}
            else:
                made[keyword] = self.schema(depth - 1)
        return made

    def _flat(self) -> dict[str, Any]:
        choose = self._random
        every: dict[str, Any] = {
            "type": choose.choice([choose.choice(TYPES), choose.sample(TYPES, 2)]),
            "enum": [self.value(1), self.value(1)],
            "const": self.value(1),
            "minimum": choose.randint(-2, 2),
            "multipleOf": choose.choice([1, 2, 0.5]),
            "maxLength": choose.randint(0, 2),
            "pattern": choose.choice(["^a", "b$", "^$", "é"]),
            "minItems": choose.randint(0, 2),
            "uniqueItems": choose.random() < 0.5,
            "minContains": choose.randint(0, 2),
            "required": choose.sample(NAMES, 1),
            "dependentRequired": {choose.choice(NAMES): choose.sample(NAMES, 1)},
            "title": "made",
        }
        return {
            keyword: every[keyword]
            for keyword in choose.sample(sorted(every), choose.randint(0, 2))
        }


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_another_library_comes_to_the_same_verdict(seed: int) -> None:
    """And a misfit has a place that is there, and a keyword that the schema has."""
    made = Made(seed)
    schema, value = made.root(), made.value(4)
    assert schema_faults(schema, max_depth=32) == ()
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    check = JsonSchemaCheck(JsonSchemaSettings(json.dumps(schema)))
    text = json.dumps(value).encode()

    outcome = run_sync(check.judge("x", [AnswerPiece(AnswerPart.CONTENT, text, "")]))

    assert (outcome == ()) is expected
    for finding in outcome:
        assert finding.place is not None
        found = value
        for step in finding.place.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found[int(step)] if isinstance(found, list) else found[name]
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


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, -1, 1e300, "#", "#/", "#/$defs/a", "^a", "("]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*sorted(KNOWN), "0", "a/b", "%"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(schema=st.dictionaries(st.sampled_from(sorted(KNOWN)), ANYTHING, max_size=3))
def test_whatever_stands_where_a_schema_is_due_has_faults_or_can_be_judged_by(
    schema: dict[str, Any],
) -> None:
    """Each fault's place is in the document, so that its line can be told."""
    faults = schema_faults(schema, max_depth=8)

    for fault in faults:
        found: Any = schema
        for step in fault.place:
            found = found[step]
    if not faults:
        check = JsonSchemaCheck(JsonSchemaSettings(json.dumps(schema), max_depth=8))
        run_sync(check.judge("x", [AnswerPiece(AnswerPart.CONTENT, b"{}", "")]))
