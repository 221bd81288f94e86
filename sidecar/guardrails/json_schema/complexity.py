"""Checks a schema: supported keywords, bounded work, no infinite recursion."""

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
    Children,
    Schema,
    SchemaPath,
    children,
    compile_schema,
    positions,
    resolved,
    same_value,
    target_of,
)

MAX_COMPLEXITY: Final = 2_000
"""Keywords applied to one value at most. A union of twenty objects comes to some 200."""
MAX_STATES: Final = 2_000
"""Sets of schemas that may come to a value; an ordinary schema has as many as it has parts."""
_LIST_SHARE: Final = 8
"""Entries of a list (names, alternatives) that cost as much as one keyword."""


@dataclass(frozen=True, slots=True)
class Complexity:
    """What is applied to one value at most: keywords, and of them those that cost far more.

    `fractions` are multiples of one: 1 µs for a number, or 8 for one of 300 digits.
    """

    keywords: int
    patterns: int
    fractions: int


@dataclass(frozen=True, slots=True)
class TooComplex:
    """A schema that looks too often; `place` is what it looks through most, `depth` how deep."""

    place: SchemaPath
    depth: int


@dataclass(frozen=True, slots=True)
class InfiniteRecursion:
    """A schema that needs its own verdict on the very same value."""

    place: SchemaPath


@dataclass(frozen=True, slots=True)
class _Graph:
    order: tuple[SchemaPath, ...]
    same: Mapping[SchemaPath, list[SchemaPath]]
    within: Mapping[SchemaPath, Children]
    costs: Mapping[SchemaPath, int]
    patterns: Mapping[SchemaPath, int]
    fractions: Mapping[SchemaPath, int]
    remembered: frozenset[SchemaPath]


_State = frozenset[tuple[SchemaPath, int]]


def complexity_of(root: Schema, *, max_depth: int) -> Complexity | TooComplex | InfiniteRecursion:
    """Return what is applied to one value at most, *max_depth* levels deep."""
    known = positions(root)
    same = {place: same_value(place, known) for place in known}
    within = {place: children(place, schema) for place, schema in known.items()}
    try:
        order = tuple(TopologicalSorter(same).static_order())[::-1]
    except CycleError as error:
        return InfiniteRecursion(min(error.args[1], key=len))
    graph = _Graph(
        order=order,
        same=same,
        within=within,
        costs={place: _cost(schema) for place, schema in known.items()},
        patterns={place: _patterns(schema) for place, schema in known.items()},
        fractions={place: _fractions(schema) for place, schema in known.items()},
        remembered=_recursive(known, same, within),
    )
    return _heaviest(graph, max_depth)


def _heaviest(graph: _Graph, max_depth: int) -> Complexity | TooComplex:
    keywords, patterns, fractions = 0, 0, 0
    seen: set[_State] = set()
    level: list[_State] = [frozenset({(ROOT, 1)})]
    for depth in range(max_depth + 1):
        following: list[_State] = []
        for state in level:
            applied = _applied(graph, state)
            keywords = max(keywords, _sum(applied, graph.costs))
            patterns = max(patterns, _sum(applied, graph.patterns))
            fractions = max(fractions, _sum(applied, graph.fractions))
            if keywords > MAX_COMPLEXITY or len(seen) > MAX_STATES:
                return TooComplex(max(applied, key=applied.__getitem__), depth)
            for below in _below(graph, applied):
                if below not in seen:
                    seen.add(below)
                    following.append(below)
        level = following
    return Complexity(keywords, patterns, fractions)


def _sum(applied: Counter[SchemaPath], costs: Mapping[SchemaPath, int]) -> int:
    return sum(count * costs[place] for place, count in applied.items())


def _applied(graph: _Graph, state: _State) -> Counter[SchemaPath]:
    """Return how often each schema is applied to a value that *state* comes to."""
    counts: Counter[SchemaPath] = Counter(dict(state))
    for place in graph.order:
        if count := counts[place]:
            if place in graph.remembered:
                counts[place] = count = 1
            for other in graph.same[place]:
                counts[other] += count
    return +counts


def _below(graph: _Graph, applied: Counter[SchemaPath]) -> Iterator[_State]:
    """Yield what comes to a value one level down, for every name and index that matters."""
    parts = [(graph.within[place], count) for place, count in applied.items()]
    names = {name for within, _ in parts for name in within.named}
    longest = max((len(within.leading) for within, _ in parts), default=0)
    ways = [*(_named(parts, name) for name in (*names, None)),
            *(_indexed(parts, index) for index in range(longest + 1))]  # fmt: skip
    for counts in ways:
        if counts:
            once = {place: 1 if place in graph.remembered else n for place, n in counts.items()}
            yield frozenset(once.items())


def _named(parts: Iterable[tuple[Children, int]], name: str | None) -> Counter[SchemaPath]:
    counts: Counter[SchemaPath] = Counter()
    for within, count in parts:
        own = within.named.get(name) if name is not None else None
        found = within.other if own is None else (own,)
        for place in (*found, *within.by_pattern, *within.unevaluated):
            counts[place] += count
    return counts


def _indexed(parts: Iterable[tuple[Children, int]], index: int) -> Counter[SchemaPath]:
    counts: Counter[SchemaPath] = Counter()
    for within, count in parts:
        leads = index < len(within.leading)
        found = (within.leading[index],) if leads else within.items
        for place in (*found, *within.every_item):
            counts[place] += count
    return counts


def _recursive(
    known: Iterable[SchemaPath],
    same: Mapping[SchemaPath, list[SchemaPath]],
    within: Mapping[SchemaPath, Children],
) -> frozenset[SchemaPath]:
    """Return the schemas that are referred to from within themselves."""
    leads_to = {place: [*same[place], *_all_of(within[place])] for place in known}
    targets = {
        target for place in known for target in same[place] if target[: len(place)] != place
    } | {ROOT}
    return frozenset(target for target in targets if _reaches(target, leads_to))


def _reaches(start: SchemaPath, leads_to: Mapping[SchemaPath, list[SchemaPath]]) -> bool:
    seen: set[SchemaPath] = set()
    waiting = list(leads_to[start])
    while waiting:
        place = waiting.pop()
        if place == start:
            return True
        if place not in seen:
            seen.add(place)
            waiting += leads_to[place]
    return False


def _all_of(within: Children) -> list[SchemaPath]:
    return [
        *within.named.values(), *within.by_pattern, *within.other, *within.unevaluated,
        *within.leading, *within.items, *within.every_item,
    ]  # fmt: skip


def _cost(schema: Schema) -> int:
    if isinstance(schema, bool):
        return 1
    lists = sum(_length(value) for value in schema.values()) // _LIST_SHARE
    return 1 + len(schema) + lists


def _patterns(schema: Schema) -> int:
    if isinstance(schema, bool):
        return 0
    return ("pattern" in schema) + len(schema.get("patternProperties", ()))


def _fractions(schema: Schema) -> int:
    return int(not isinstance(schema, bool) and isinstance(schema.get("multipleOf"), float))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


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
    """One thing that is wrong, by its place in the schema."""

    place: SchemaPath
    problem: str
    hint: str | None = None
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
            return SchemaFault(place, "is not a regular expression", _PATTERN_HINT)
        keyword = next((step for step in reversed(place) if isinstance(step, str)), "")
        return SchemaFault(place, f"is not what `{keyword}` may be in draft 2020-12")
    return None


def _faults(known: Mapping[SchemaPath, Schema]) -> Iterator[SchemaFault]:
    for place, schema in known.items():
        if isinstance(schema, bool):
            continue
        for keyword, value in schema.items():
            fault = _keyword_fault((*place, keyword), value, known)
            if fault is not None:
                yield fault


def _keyword_fault(
    place: SchemaPath, value: Any, known: Mapping[SchemaPath, Schema]
) -> SchemaFault | None:
    keyword = str(place[-1])
    if keyword not in KNOWN:
        problem = f"unknown keyword `{keyword[:80]}`, which would not be checked"
        return SchemaFault(place, problem, _nearest(keyword), at_key=True)
    if keyword == "$ref" and resolved(value, known) is None:
        return _reference_fault(place, value)
    if keyword == "format" and value not in FORMATS:
        near = difflib.get_close_matches(value, FORMATS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(sorted(FORMATS))}"
        return SchemaFault(place, f"no such format is checked: `{value[:80]}`", hint)
    if keyword == "$schema" and len(place) > 1:
        return SchemaFault(place, "may stand at the top only", "leave it out", at_key=True)
    return None


def _nearest(keyword: str) -> str | None:
    if keyword in HINTS:
        return HINTS[keyword]
    near = difflib.get_close_matches(keyword, KNOWN, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _reference_fault(place: SchemaPath, reference: str) -> SchemaFault:
    if target_of(reference) is None:
        problem = "leads out of this schema; nothing is ever fetched"
        return SchemaFault(place, problem, "put it under `$defs`, and write `#/$defs/NAME`")
    return SchemaFault(place, f"there is no schema at `{reference[:80]}`", "see `$defs`")


def _too_many(known: Mapping[SchemaPath, Schema]) -> Iterator[SchemaFault]:
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
    match complexity_of(schema, max_depth=max_depth):
        case InfiniteRecursion(place):
            problem = "refers to itself without going into the value, so it never ends"
            yield SchemaFault(place, problem, "take the reference out")
            return
        case TooComplex(place, depth):
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
            yield SchemaFault(place, "is no regular expression of linear time", _PATTERN_HINT)
        else:
            yield SchemaFault(place, "cannot be used")


def _found(schema: Any, path: Iterable[str | int]) -> tuple[SchemaPath, Any]:
    """Return the place of a path of the library's, which takes a property named 0 for an item."""
    place: SchemaPath = ()
    value = schema
    for step in path:
        step = str(step) if isinstance(value, Mapping) else step  # noqa: PLW2901 - see above
        place, value = (*place, step), value[step]
    return place, value
