"""What is wrong with an author's schema, and where: told when a policy is applied."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs

from sidecar.guardrails.json_schema.keywords import DIALECT, FORMATS, KNOWN, MENDS
from sidecar.guardrails.json_schema.positions import Place, Schema, positions, resolved, target_of
from sidecar.guardrails.json_schema.validators import compile_schema
from sidecar.guardrails.json_schema.weight import Endless, TooHeavy, weight_of

MAX_SCHEMA_BYTES: Final = 65_536
MAX_SCHEMAS: Final = 1_000
"""Schemas within a schema; the largest that OpenAI's structured output takes has some hundred."""
MAX_PATTERNS: Final = 100
"""Each takes a millisecond to compile at worst, in a worker."""

_PATTERN_MEND: Final = (
    "no look-around or back-references; `maxLength` in the place of large counted repeats"
)


@dataclass(frozen=True, slots=True)
class SchemaFault:
    """One thing that is wrong, by its place in the schema."""

    place: Place
    problem: str
    mend: str | None = None
    at_key: bool = False


def schema_faults(schema: Mapping[str, Any], *, max_depth: int) -> tuple[SchemaFault, ...]:
    """Return what is wrong with *schema*; nothing, where an answer can be judged by it."""
    dialect = schema.get("$schema", DIALECT)
    if dialect != DIALECT:
        problem = "is another draft than 2020-12"
        return (SchemaFault(("$schema",), problem, f"write {DIALECT}, or leave it out"),)
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        return (SchemaFault((), f"is longer than {MAX_SCHEMA_BYTES} bytes as JSON"),)
    shape = _shape(schema)
    if shape is not None:
        return (shape,)
    known = positions(schema)
    faults = tuple(_faults(known)) or tuple(_too_many(known))
    return faults or tuple(_of_the_whole(schema, max_depth))


def _shape(schema: Mapping[str, Any]) -> SchemaFault | None:
    """Compare with the draft's own schema: what stands where a schema or a number is due."""
    try:
        jsonschema_rs.meta.validate(dict(schema))
    except jsonschema_rs.ValidationError as error:
        place, value = _found(schema, error.instance_path)
        if value is None:
            return SchemaFault(place, "must not be empty", 'the type is "null", in quotes')
        if "pattern" in place[-1:] or error.kind.name == "format":
            return SchemaFault(place, "is not a regular expression", _PATTERN_MEND)
        keyword = next((step for step in reversed(place) if isinstance(step, str)), "")
        return SchemaFault(place, f"is not what `{keyword}` may be in draft 2020-12")
    return None


def _faults(known: Mapping[Place, Schema]) -> Iterator[SchemaFault]:
    for place, schema in known.items():
        if isinstance(schema, bool):
            continue
        for keyword, value in schema.items():
            fault = _keyword_fault((*place, keyword), value, known)
            if fault is not None:
                yield fault


def _keyword_fault(place: Place, value: Any, known: Mapping[Place, Schema]) -> SchemaFault | None:
    keyword = str(place[-1])
    if keyword not in KNOWN:
        problem = f"unknown keyword `{keyword[:80]}`, which would not be checked"
        return SchemaFault(place, problem, _nearest(keyword), at_key=True)
    if keyword == "$ref" and resolved(value, known) is None:
        return _reference_fault(place, value)
    if keyword == "format" and value not in FORMATS:
        near = difflib.get_close_matches(value, FORMATS, n=1)
        mend = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(sorted(FORMATS))}"
        return SchemaFault(place, f"no such format is checked: `{value[:80]}`", mend)
    if keyword == "$schema" and len(place) > 1:
        return SchemaFault(place, "may stand at the top only", "leave it out", at_key=True)
    return None


def _nearest(keyword: str) -> str | None:
    if keyword in MENDS:
        return MENDS[keyword]
    near = difflib.get_close_matches(keyword, KNOWN, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _reference_fault(place: Place, reference: str) -> SchemaFault:
    if target_of(reference) is None:
        problem = "leads out of this schema; nothing is ever fetched"
        return SchemaFault(place, problem, "put it under `$defs`, and write `#/$defs/NAME`")
    return SchemaFault(place, f"there is no schema at `{reference[:80]}`", "see `$defs`")


def _too_many(known: Mapping[Place, Schema]) -> Iterator[SchemaFault]:
    if len(known) > MAX_SCHEMAS:
        yield SchemaFault((), f"holds more than {MAX_SCHEMAS} schemas")
    expressions = [
        one
        for schema in known.values()
        if not isinstance(schema, bool)
        for one in (*schema.get("patternProperties", ()), *_given(schema, "pattern"))
    ]
    if len(expressions) > MAX_PATTERNS:
        yield SchemaFault((), f"holds more than {MAX_PATTERNS} regular expressions")


def _given(schema: Mapping[str, Any], keyword: str) -> tuple[Any, ...]:
    return (schema[keyword],) if keyword in schema else ()


def _of_the_whole(schema: Mapping[str, Any], max_depth: int) -> Iterator[SchemaFault]:
    match weight_of(schema, max_depth=max_depth):
        case Endless(place):
            problem = "refers to itself without going into the value, so it never ends"
            yield SchemaFault(place, problem, "take the reference out")
            return
        case TooHeavy(place, depth):
            yield SchemaFault(
                place,
                f"a value {depth} levels deep would be looked at too often",
                "let branches differ in the properties they look at, or lower `max_depth`",
            )
            return
        case _:
            pass
    try:
        compile_schema(schema)
    except jsonschema_rs.ValidationError as error:
        place, _ = _found(schema, error.instance_path)
        if "pattern" in place[-1:] or "patternProperties" in place:
            yield SchemaFault(place, "is no regular expression of linear time", _PATTERN_MEND)
        else:
            yield SchemaFault(place, "cannot be used")


def _found(schema: Any, path: Iterable[str | int]) -> tuple[Place, Any]:
    """Return the place of a path of the library's, which takes a property named 0 for an item."""
    place: Place = ()
    value = schema
    for step in path:
        step = str(step) if isinstance(value, Mapping) else step  # noqa: PLW2901 - see above
        place, value = (*place, step), value[step]
    return place, value
