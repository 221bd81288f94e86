"""The text of a configuration, its places, and the values in it with their places."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import yaml

from sidecar.policy.yaml_positions import LOADER

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
Path = tuple[str | int, ...]

MAX_BYTES: Final = 64 << 20
MAX_NODES: Final = 2_000_000
"""More than any configuration has; aliases could multiply a small file into as many."""

MAX_DEPTH: Final = 200
_TOO_LARGE: Final = " nesting or aliases make this larger than any configuration"
_BYTE_ORDER_MARK: Final = "\ufeff"
_TAG: Final = "tag:yaml.org,2002:"
_IGNORE: Final = re.compile(r"#\s*egret-lint:\s*ignore=([A-Z0-9,]+)(?:\s+(\S.*))?")


class SourceError(ValueError):
    """A text that cannot be read as YAML or JSON; the message says where."""


class TemplateError(SourceError):
    """A template of a configuration, which is none until it is rendered."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands: line and column from 1, and its characters in the text."""

    line: int
    column: int
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Suppression:
    """A comment that silences rules on its line, or on the next one where it stands alone."""

    line: int
    rules: frozenset[str]
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """One document of a file: its value, and the mark of each value by its path."""

    name: str
    value: JsonValue
    text: str = field(repr=False)
    marks: Mapping[Path, Mark] = field(repr=False)
    suppressions: tuple[Suppression, ...] = ()
    names: Mapping[Path, Mark] = field(default_factory=dict, repr=False)
    """The mark of each key, by the path of its value."""
    merges: tuple[Mark, ...] = ()
    """The places of `<<`, which YAML 1.1 merges and Envoy does not."""

    def mark(self, path: Path) -> Mark:
        """Return where *path* stands, or the nearest thing above it that stands anywhere."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, Mark(1, 1))

    def value_at(self, path: Path) -> JsonValue:
        """Return the value of the text at *path*."""
        value = self.value
        for step in path:
            if isinstance(value, dict):
                value = value.get(str(step))
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value


def read_source(name: str, text: str) -> tuple[Source, ...]:
    """Read every document of *text*.

    Raises:
        SourceError: neither YAML nor JSON.
    """
    if len(text) > MAX_BYTES:
        raise SourceError(f"{name}: longer than {MAX_BYTES >> 20} MiB")
    suppressions = tuple(_suppressions(text))
    try:
        nodes = list(yaml.compose_all(text, Loader=LOADER))
    except yaml.YAMLError as error:
        return _read_json(name, text, error)
    sources: list[Source] = []
    for node in nodes:
        reader = _Reader(skipped=len(text) - len(text.removeprefix(_BYTE_ORDER_MARK)))
        try:
            value = reader.read_document(node)
        except SourceError as error:
            raise _unreadable(name, text, f":{error}") from None
        merges = tuple(reader.merges)
        sources.append(Source(name, value, text, reader.marks, suppressions, reader.names, merges))
    return tuple(sources)


def embedded(source: Source, path: Path) -> Source | None:
    """Read the text at *path*, such as a file in a ConfigMap, with its places in the whole file.

    None if it is not YAML or JSON of one document.
    """
    text = source.value_at(path)
    if not isinstance(text, str):
        return None
    try:
        (inner,) = read_source(source.name, text)
    except (SourceError, ValueError):
        return None
    outer = source.mark(path)
    if source.text[outer.start : outer.start + 1] != "|":
        # Escapes and folded lines move characters: the place is that of the whole text.
        place = Mark(outer.line, outer.column)
        marks = dict.fromkeys(inner.marks, place)
        return Source(source.name, inner.value, source.text, marks, source.suppressions)
    shift = _Shift.of(source.text, outer)
    return Source(
        source.name,
        inner.value,
        source.text,
        {key: shift.moved(mark) for key, mark in inner.marks.items()},
        source.suppressions,
        {key: shift.moved(mark) for key, mark in inner.names.items()},
        tuple(shift.moved(mark) for mark in inner.merges),
    )


@dataclass(frozen=True, slots=True)
class _Shift:
    """The place of a literal block in its file: first line, indentation, starts of lines."""

    line: int
    indent: int
    starts: tuple[int, ...]

    @classmethod
    def of(cls, text: str, outer: Mark) -> _Shift:
        lines = text.splitlines(keepends=True)
        content = (line for line in lines[outer.line :] if line.strip())
        first = next(content, "")
        starts = tuple(accumulate((len(line) for line in lines), initial=0))
        return cls(outer.line, len(first) - len(first.lstrip(" ")), starts)

    def moved(self, mark: Mark) -> Mark:
        line, column = self.line + mark.line, self.indent + mark.column
        start = self.starts[min(line - 1, len(self.starts) - 1)] + column - 1
        return Mark(line, column, start, start + mark.end - mark.start)


TEMPLATE: Final = re.compile(r"\{%-?\s*\w|\{\{-?\s*(?:/\*|[.$\w\"(])|<%=?\s|\$\{[A-Za-z_]\w*\}")
"""Marks of Jinja, Helm and Go templates, ERB, and variables of envsubst."""


def template_mark(text: str) -> Mark | None:
    """Return the place of the first mark of a template outside of comments."""
    for number, line in enumerate(text.splitlines(), start=1):
        match = TEMPLATE.search(line.partition(" #")[0])
        if match is not None and not line.lstrip().startswith("#"):
            return Mark(number, match.start() + 1)
    return None


def _read_json(name: str, text: str, error: yaml.YAMLError) -> tuple[Source, ...]:
    """Read JSON that is no YAML 1.1: escapes in two halves, above all. Places are lost."""
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise _unreadable(name, text, f"{place}: {problem}") from None
    return (Source(name, value, text, {}),)


def _unreadable(name: str, text: str, problem: str) -> SourceError:
    """Return the error of a text that is no YAML; a template is called one."""
    template = template_mark(text)
    if template is None:
        return SourceError(f"{name}{problem}")
    place = f"{name}:{template.line}:{template.column}"
    return TemplateError(f"{place}: this looks like a template")


def _values_of(node: yaml.Node, known: dict[int, float]) -> float:
    """Return the number of values of *node* with its aliases; infinite if one contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until all below it are counted
        children: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.MappingNode):
            children = (value for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_values_of(one, known) for one in children)
    return known[id(node)]


class _Reader:
    """Turns nodes into plain values and notes where each stands."""

    def __init__(self, *, skipped: int) -> None:
        self._skipped = skipped
        """Characters before the first that libyaml counts."""
        self.marks: dict[Path, Mark] = {}
        self.names: dict[Path, Mark] = {}
        self.merges: list[Mark] = []

    def read_document(self, node: yaml.Node) -> JsonValue:
        """Return the plain value of a whole document."""
        with suppress(RecursionError):  # of nodes in each other, without aliases
            if _values_of(node, {}) <= MAX_NODES:
                return self.read(node, ())
        raise SourceError(_TOO_LARGE)

    def read(self, node: yaml.Node, path: Path) -> JsonValue:
        """Return the plain value of *node*."""
        if len(path) > MAX_DEPTH:
            raise SourceError(_TOO_LARGE)
        start, end = node.start_mark, node.end_mark
        self.marks[path] = Mark(
            start.line + 1,
            start.column + 1,
            start.index + self._skipped,
            end.index + self._skipped,
        )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, JsonValue]:
        mapping: dict[str, JsonValue] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                start = key_node.start_mark
                self.merges.append(Mark(start.line + 1, start.column + 1))
                merged = self.read(value_node, path)
                mapping = (merged if isinstance(merged, dict) else {}) | mapping
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                place = f"{key_node.start_mark.line + 1}:{key_node.start_mark.column + 1}"
                raise SourceError(f"{place}: a key that is not text")
            key = str(key_node.value)
            start = key_node.start_mark
            self.names[*path, key] = Mark(start.line + 1, start.column + 1)
            mapping[key] = self.read(value_node, (*path, key))
        return mapping


def _scalar(node: yaml.Node) -> JsonValue:
    text = str(node.value)
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() in {"yes", "true", "on"}
        case "int" | "float":
            if "_" in text:
                return text  # a number for YAML 1.1, and none for Envoy
            try:
                return float(text) if set(text.lower()) & set(".e") else int(text, 0)
            except ValueError:
                return text
        case _:
            return text


def _suppressions(text: str) -> Iterator[Suppression]:
    for number, line in enumerate(text.splitlines(), start=1):
        match = _IGNORE.search(line)
        if match is not None:
            stands_alone = not line[: match.start()].strip()
            yield Suppression(
                line=number + 1 if stands_alone else number,
                rules=frozenset(match[1].split(",")),
                reason=(match[2] or "").strip(),
            )


_CAMEL: Final = re.compile(r"_([a-z0-9])")


@dataclass(frozen=True, slots=True)
class Node:
    """One value; a missing one is None, at the place of its parent."""

    value: JsonValue
    source: Source = field(repr=False)
    path: Path = ()

    def at(self, *steps: str | int) -> Node:
        """Return the value at *steps* below this one."""
        node = self
        for step in steps:
            node = node._child(step)
        return node

    def _child(self, step: str | int) -> Node:
        value: JsonValue = None
        if isinstance(self.value, dict) and isinstance(step, str):
            value = self.value.get(step)
        elif isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            value = self.value[step]
        return Node(value, self.source, self._path_of(step))

    def _path_of(self, step: str | int) -> Path:
        """Find the step as the text has it: names may be written as in JSON."""
        path = (*self.path, step)
        if path in self.source.marks or isinstance(step, int):
            return path
        name = _CAMEL.sub(lambda match: match[1].upper(), step)
        places = [(*self.path, name)]
        within = (*self.path, "value")
        if within in self.source.marks:  # a message as a struct (xds.type.v3.TypedStruct)
            places += [(*within, step), (*within, name)]
        return next((one for one in places if one in self.source.marks), path)

    def __iter__(self) -> Iterator[Node]:
        """Yield the items of a list."""
        if isinstance(self.value, list):
            for index in range(len(self.value)):
                yield self._child(index)

    def entries(self) -> Iterator[tuple[str, Node]]:
        """Yield the entries of a map."""
        if isinstance(self.value, dict):
            for name in self.value:
                yield name, self._child(name)

    def tree(self) -> Iterator[Node]:
        """Yield the value and all that is within it."""
        pending = [self]
        while pending:
            one = pending.pop()
            yield one
            pending += [*one, *(held for _, held in one.entries())]

    @property
    def exists(self) -> bool:
        """Return whether the value exists."""
        return self.value is not None

    @property
    def is_written(self) -> bool:
        """Return whether the text has it, and not only Envoy's defaults."""
        return self.path in self.source.marks

    @property
    def mark(self) -> Mark:
        """Return its place, or that of its parent."""
        return self.source.mark(self.path)

    @property
    def text(self) -> str:
        """Return a string, empty where there is none."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def is_true(self) -> bool:
        """Return whether it is a boolean that is on."""
        return self.value is True

    @property
    def number(self) -> float | None:
        """Return a number; 64-bit ones are text in protobuf's JSON."""
        if isinstance(self.value, bool):
            return None
        if isinstance(self.value, (int, float)):
            return self.value
        try:
            return float(self.text)
        except ValueError:
            return None

    @property
    def seconds(self) -> float | None:
        """Return a duration such as `1.5s`."""
        text = self.text
        if not text.endswith("s"):
            return None
        try:
            return float(text[:-1])
        except ValueError:
            return None

    @property
    def type_name(self) -> str:
        """Return the message type of an extension, without its package prefix."""
        return self.at("@type").text.rpartition("/")[2]


def embedded_mark(node: Node, inner: Mark) -> Mark:
    """Return the place in the whole file of a place within a text in it."""
    outer, text = node.mark, node.source.text
    if text[outer.start : outer.start + 1] != "|":
        return Mark(outer.line, outer.column)
    return _Shift.of(text, outer).moved(inner)
