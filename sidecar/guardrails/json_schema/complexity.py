"""Checks a schema: supported keywords, bounded work, no infinite recursion.

A schema of two kilobytes may apply a keyword four million times to one value: branches double
with every reference (decision 49). So the work for a value is computed before the schema is used,
level by level: the set of schemas that may apply to one value, and how often each, is a state;
from each state follow those of its properties and items.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

import jsonschema_rs

from sidecar.guardrails.json_schema.schema import (
    DIALECT,
    FORMATS,
    HINTS,
    KNOWN,
    ROOT,
    Schema,
    SchemaPath,
    Subschemas,
    compile_schema,
    positions,
    resolved,
    same_value,
    subschemas,
    target_of,
)

MAX_COMPLEXITY: Final = 2_000
"""Keywords applied to one value at most. A union of twenty objects comes to some 200."""
MAX_STATES: Final = 2_000
"""States that are looked at; an ordinary schema has as many as it has parts."""
_LIST_SHARE: Final = 8
"""Entries of a list (names, alternatives) that cost as much as one keyword."""


@dataclass(frozen=True, slots=True)
class Complexity:
    """The most that is applied to one value: keywords, and of them those that cost far more.

    `fractions` are multiples of one: 1 µs for a number, or 8 for one of 300 digits.
    """

    keywords: int
    patterns: int
    fractions: int


@dataclass(frozen=True, slots=True)
class TooComplex:
    """A schema over `MAX_COMPLEXITY`; `place` is the part applied most, at `depth` of a value."""

    place: SchemaPath
    depth: int


@dataclass(frozen=True, slots=True)
class InfiniteRecursion:
    """A schema whose verdict on a value needs its own verdict on the very same value."""

    place: SchemaPath


_State = frozenset[tuple[SchemaPath, int]]


def complexity_of(root: Schema, *, max_depth: int) -> Complexity | TooComplex | InfiniteRecursion:
    """Return the most that is applied to one value, *max_depth* levels deep."""
    known = positions(root)
    same = {place: same_value(place, known) for place in known}
    within = {place: subschemas(place, schema) for place, schema in known.items()}
    try:
        order = tuple(TopologicalSorter(same).static_order())[::-1]
    except CycleError as error:
        return InfiniteRecursion(min(error.args[1], key=len))
    cached = _recursive(same, within)
    costs = {place: _costs(schema) for place, schema in known.items()}
    most = (0, 0, 0)
    seen: set[_State] = set()
    level: list[_State] = [frozenset({(ROOT, 1)})]
    for depth in range(max_depth + 1):
        following: list[_State] = []
        for state in level:
            applied = Counter(dict(state))
            for place in order:
                if count := applied[place]:
                    if place in cached:
                        applied[place] = count = 1
                    for other in same[place]:
                        applied[other] += count
            applied = +applied
            totals = ([n * costs[place][of] for place, n in applied.items()] for of in range(3))
            keywords, patterns, fractions = map(sum, totals)
            most = (max(most[0], keywords), max(most[1], patterns), max(most[2], fractions))
            if most[0] > MAX_COMPLEXITY or len(seen) > MAX_STATES:
                return TooComplex(max(applied, key=applied.__getitem__), depth)
            for below in _states_below(applied, within, cached):
                if below not in seen:
                    seen.add(below)
                    following.append(below)
        level = following
    return Complexity(*most)


def _states_below(
    applied: Mapping[SchemaPath, int],
    within: Mapping[SchemaPath, Subschemas],
    cached: frozenset[SchemaPath],
) -> Iterator[_State]:
    """Yield the states one level down, for every name and index that makes a difference."""
    parts = [(within[place], count) for place, count in applied.items()]
    names = {name for one, _ in parts for name in one.named}
    longest = max((len(one.leading) for one, _ in parts), default=0)
    for step in (*names, None, *range(longest + 1)):
        counts: Counter[SchemaPath] = Counter()
        for one, count in parts:
            for place in one.at(step):
                counts[place] += count
        if counts:
            yield frozenset((place, 1 if place in cached else n) for place, n in counts.items())


def _recursive(
    same: Mapping[SchemaPath, list[SchemaPath]], within: Mapping[SchemaPath, Subschemas]
) -> frozenset[SchemaPath]:
    """Return the schemas that are referred to from within themselves; the library caches these."""
    targets = {
        target
        for place, found in same.items()
        for target in found
        if target[: len(place)] != place
    } | {ROOT}
    recursive: set[SchemaPath] = set()
    for target in targets:
        seen: set[SchemaPath] = set()
        waiting = [target]
        while waiting:
            place = waiting.pop()
            for following in (*same[place], *within[place].all()):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        if target in seen:
            recursive.add(target)
    return frozenset(recursive)


def _costs(schema: Schema) -> tuple[int, int, int]:
    """Return keywords, regular expressions and fractions of one schema, without those within."""
    if isinstance(schema, bool):
        return 1, 0, 0
    entries = sum(len(value) for value in schema.values() if isinstance(value, (list, dict)))
    patterns = ("pattern" in schema) + len(schema.get("patternProperties", ()))
    fractions = int(isinstance(schema.get("multipleOf"), float))
    return 1 + len(schema) + entries // _LIST_SHARE, patterns, fractions


MAX_SCHEMA_BYTES: Final = 65_536
MAX_SCHEMAS: Final = 1_000
"""Schemas within a schema; the largest that OpenAI's structured output takes has some hundred."""
MAX_PATTERNS: Final = 100
"""Each takes a millisecond to compile at worst, in a worker."""

_PATTERN_HINT: Final = (
    "no look-around or back-references; `maxLength` in the place of large counted repeats"
)


@dataclass(frozen=True, slots=True)
class SchemaFault:
    """One fault, by its place in the schema."""

    place: SchemaPath
    problem: str
    hint: str | None = None
    at_key: bool = False


def schema_faults(schema: Mapping[str, Any], *, max_depth: int) -> tuple[SchemaFault, ...]:
    """Return the faults of *schema*; none if an answer can be judged by it."""
    dialect = schema.get("$schema", DIALECT)
    if dialect != DIALECT:
        problem = "is another draft than 2020-12"
        return (SchemaFault(("$schema",), problem, f"write {DIALECT}, or leave it out"),)
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        return (SchemaFault((), f"is longer than {MAX_SCHEMA_BYTES} bytes as JSON"),)
    try:  # by the draft's own schema: a value where a schema or a number is due
        jsonschema_rs.meta.validate(dict(schema))
    except jsonschema_rs.ValidationError as error:
        place, value = _found(schema, error.instance_path)
        if value is None:
            return (SchemaFault(place, "must not be empty", 'the type is "null", in quotes'),)
        if "pattern" in place[-1:] or error.kind.name == "format":
            return (SchemaFault(place, "is not a regular expression", _PATTERN_HINT),)
        keyword = next((step for step in reversed(place) if isinstance(step, str)), "")
        return (SchemaFault(place, f"is no value of `{keyword}` in draft 2020-12"),)
    known = positions(schema)
    tables = {place: one for place, one in known.items() if not isinstance(one, bool)}
    faults = [
        fault
        for place, one in tables.items()
        for keyword, value in one.items()
        if (fault := _keyword_fault((*place, keyword), value, known)) is not None
    ]
    if len(known) > MAX_SCHEMAS:
        faults.append(SchemaFault((), f"holds more than {MAX_SCHEMAS} schemas"))
    if sum(_costs(one)[1] for one in tables.values()) > MAX_PATTERNS:
        faults.append(SchemaFault((), f"holds more than {MAX_PATTERNS} regular expressions"))
    fault = None if faults else _whole_fault(schema, max_depth)
    return tuple(faults) if fault is None else (fault,)


def _keyword_fault(
    place: SchemaPath, value: Any, known: Mapping[SchemaPath, Schema]
) -> SchemaFault | None:
    keyword = str(place[-1])
    if keyword not in KNOWN:
        near = difflib.get_close_matches(keyword, KNOWN, n=1)
        hint = HINTS.get(keyword) or (f"did you mean `{near[0]}`?" if near else None)
        problem = f"unknown keyword `{keyword[:80]}`, which would not be checked"
        return SchemaFault(place, problem, hint, at_key=True)
    if keyword == "$ref" and resolved(value, known) is None:
        if target_of(value) is not None:
            return SchemaFault(place, f"there is no schema at `{value[:80]}`", "see `$defs`")
        problem = "leads out of this schema; nothing is ever fetched"
        return SchemaFault(place, problem, "put it under `$defs`, and write `#/$defs/NAME`")
    if keyword == "format" and value not in FORMATS:
        near = difflib.get_close_matches(value, FORMATS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(sorted(FORMATS))}"
        return SchemaFault(place, f"no such format is checked: `{value[:80]}`", hint)
    if keyword == "$schema" and len(place) > 1:
        return SchemaFault(place, "may stand at the top only", "leave it out", at_key=True)
    return None


def _whole_fault(schema: Mapping[str, Any], max_depth: int) -> SchemaFault | None:
    """Return the fault of a schema whose every keyword is right by itself."""
    match complexity_of(schema, max_depth=max_depth):
        case InfiniteRecursion(place):
            problem = "refers to itself without going into the value, so it never ends"
            return SchemaFault(place, problem, "take the reference out")
        case TooComplex(place, depth):
            problem = f"a value {depth} levels deep would be looked at too often"
            hint = "let branches differ in the properties they look at, or lower `max_depth`"
            return SchemaFault(place, problem, hint)
        case Complexity():
            pass
    try:
        compile_schema(schema)
    except jsonschema_rs.ValidationError as error:
        place, _ = _found(schema, error.instance_path)
        if "pattern" in place[-1:] or "patternProperties" in place:
            return SchemaFault(place, "is no regular expression of linear time", _PATTERN_HINT)
        return SchemaFault(place, "cannot be used")
    return None


def _found(schema: Any, path: Iterable[str | int]) -> tuple[SchemaPath, Any]:
    """Return the place of a path of the library, which writes a property named 0 as an item."""
    place: SchemaPath = ()
    value = schema
    for step in path:
        step = str(step) if isinstance(value, Mapping) else step  # noqa: PLW2901 - see above
        place, value = (*place, step), value[step]
    return place, value
