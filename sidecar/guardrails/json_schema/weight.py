"""How often a schema can look at one value: an author's schema must not explode.

Two branches that each look at the same property double what is looked at with every level; forty
levels written so take a year. The worst is worked out before a policy is applied, for every way
down through the values, as deep as an answer may be.

A schema that refers to itself is the exception: the library remembers what it came to for a value
(`tests/unit/guardrails/json_schema/test_library.py` holds it to that), so it counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from sidecar.guardrails.json_schema.positions import (
    ROOT,
    Children,
    Place,
    Schema,
    children,
    positions,
    same_value,
)

MAX_WEIGHT: Final = 2_000
"""Keywords applied to one value at most. A union of twenty objects comes to some 200."""
MAX_STATES: Final = 2_000
"""Sets of schemas that may come to a value; an ordinary schema has as many as it has parts."""
_LIST_SHARE: Final = 8
"""Entries of a list (names, alternatives) that cost as much as one keyword."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What is applied to one value at most: keywords, and of them those that cost far more.

    `fractions` are multiples of one: 1 µs for a number, or 8 for one of 300 digits.
    """

    keywords: int
    patterns: int
    fractions: int


@dataclass(frozen=True, slots=True)
class TooHeavy:
    """A schema that looks too often; `place` is what it looks through most, `depth` how deep."""

    place: Place
    depth: int


@dataclass(frozen=True, slots=True)
class Endless:
    """A schema that needs its own verdict on the very same value."""

    place: Place


@dataclass(frozen=True, slots=True)
class _Graph:
    order: tuple[Place, ...]
    same: Mapping[Place, list[Place]]
    within: Mapping[Place, Children]
    costs: Mapping[Place, int]
    patterns: Mapping[Place, int]
    fractions: Mapping[Place, int]
    remembered: frozenset[Place]


_State = frozenset[tuple[Place, int]]


def weight_of(root: Schema, *, max_depth: int) -> Weight | TooHeavy | Endless:
    """Return what is applied to one value at most, *max_depth* levels deep."""
    known = positions(root)
    same = {place: same_value(place, known) for place in known}
    within = {place: children(place, schema) for place, schema in known.items()}
    try:
        order = tuple(TopologicalSorter(same).static_order())[::-1]
    except CycleError as error:
        return Endless(min(error.args[1], key=len))
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


def _heaviest(graph: _Graph, max_depth: int) -> Weight | TooHeavy:
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
            if keywords > MAX_WEIGHT or len(seen) > MAX_STATES:
                return TooHeavy(max(applied, key=applied.__getitem__), depth)
            for below in _below(graph, applied):
                if below not in seen:
                    seen.add(below)
                    following.append(below)
        level = following
    return Weight(keywords, patterns, fractions)


def _sum(applied: Counter[Place], costs: Mapping[Place, int]) -> int:
    return sum(count * costs[place] for place, count in applied.items())


def _applied(graph: _Graph, state: _State) -> Counter[Place]:
    """Return how often each schema is applied to a value that *state* comes to."""
    counts: Counter[Place] = Counter(dict(state))
    for place in graph.order:
        if count := counts[place]:
            if place in graph.remembered:
                counts[place] = count = 1
            for other in graph.same[place]:
                counts[other] += count
    return +counts


def _below(graph: _Graph, applied: Counter[Place]) -> Iterator[_State]:
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


def _named(parts: Iterable[tuple[Children, int]], name: str | None) -> Counter[Place]:
    counts: Counter[Place] = Counter()
    for within, count in parts:
        own = within.named.get(name) if name is not None else None
        found = within.other if own is None else (own,)
        for place in (*found, *within.by_pattern, *within.unevaluated):
            counts[place] += count
    return counts


def _indexed(parts: Iterable[tuple[Children, int]], index: int) -> Counter[Place]:
    counts: Counter[Place] = Counter()
    for within, count in parts:
        leads = index < len(within.leading)
        found = (within.leading[index],) if leads else within.items
        for place in (*found, *within.every_item):
            counts[place] += count
    return counts


def _recursive(
    known: Iterable[Place],
    same: Mapping[Place, list[Place]],
    within: Mapping[Place, Children],
) -> frozenset[Place]:
    """Return the schemas that are referred to from within themselves."""
    leads_to = {place: [*same[place], *_all_of(within[place])] for place in known}
    targets = {
        target for place in known for target in same[place] if target[: len(place)] != place
    } | {ROOT}
    return frozenset(target for target in targets if _reaches(target, leads_to))


def _reaches(start: Place, leads_to: Mapping[Place, list[Place]]) -> bool:
    seen: set[Place] = set()
    waiting = list(leads_to[start])
    while waiting:
        place = waiting.pop()
        if place == start:
            return True
        if place not in seen:
            seen.add(place)
            waiting += leads_to[place]
    return False


def _all_of(within: Children) -> list[Place]:
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
