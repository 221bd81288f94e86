"""Reads YAML and keeps the position of every value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml
from typing_extensions import override

MAX_TEXT_CHARACTERS: Final = 1_000_000
MAX_DEPTH: Final = 60
"""A policy is five levels deep, a schema in it twice as deep as what it describes; more is an
attack on the parser's stack."""

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, both from 1."""

_TAG: Final = "tag:yaml.org,2002:"


class YamlError(Exception):
    """Text that is not the YAML we accept; `mark` says where."""

    def __init__(self, problem: str, mark: Mark, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mark = mark
        self.hint = hint


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document: its plain value, where each value and key stood, and its own text."""

    value: object
    values: dict[Path, Mark]
    keys: dict[Path, Mark]
    text: str = field(repr=False)


class _Loader(yaml.SafeLoader):
    """Refuses anchors and depth while nodes are made, before anything can be multiplied."""

    depth = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # a stub without types
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError("anchors and aliases are not accepted", _mark(event.start_mark))
        if self.depth >= MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", _mark(event.start_mark))
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_yaml(text: str) -> tuple[YamlDocument, ...]:
    """Read every document of *text*; empty ones are left out.

    Raises:
        YamlError: on the first place that is not YAML, or uses anchors, tags or a key twice.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise YamlError(f"longer than {MAX_TEXT_CHARACTERS} characters", (1, 1))
    try:
        nodes = list(_compose(text))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise YamlError(error.problem or "not YAML", _mark(at) if at else (1, 1)) from None
    except yaml.reader.ReaderError as error:
        raise YamlError(f"not YAML: {error.reason}", _position(text, error.position)) from None
    # A document's text runs up to the next one's dashes, so that joined they are the whole.
    ends = [*(start for start, _ in nodes[1:]), len(text)]
    documents: list[YamlDocument] = []
    for index, ((start, node), end) in enumerate(zip(nodes, ends, strict=False)):
        values: dict[Path, Mark] = {}
        keys: dict[Path, Mark] = {}
        value = _plain(node, (), (values, keys))
        if value is not None:
            piece = text[0 if index == 0 else start : end]
            documents.append(YamlDocument(value=value, values=values, keys=keys, text=piece))
    return tuple(documents)


def _compose(text: str) -> Iterator[tuple[int, yaml.Node]]:
    loader = _Loader(text)
    try:
        loader.check_node()  # takes the start of the stream
        while loader.check_node():
            event = loader.peek_event()  # type: ignore[no-untyped-call]  # a stub without types
            node = loader.compose_document()
            if node is not None:
                yield event.start_mark.index, node
    finally:
        loader.dispose()


def _plain(
    node: yaml.Node, path: Path, marks: tuple[dict[Path, Mark], dict[Path, Mark]]
) -> object:
    values, keys = marks
    values[path] = _mark(node.start_mark)
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, mapping)
            keys[(*path, key)] = _mark(key_node.start_mark)
            mapping[key] = _plain(value_node, (*path, key), marks)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_plain(item, (*path, index), marks) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    raise YamlError(f"the tag `{node.tag[:80]}` is not accepted", _mark(node.start_mark))


def _key(node: yaml.Node, seen: dict[str, object]) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError("a key must be a plain word", _mark(node.start_mark))
    key = str(node.value)
    if node.tag == f"{_TAG}merge":
        raise YamlError("merge keys are not accepted", _mark(node.start_mark))
    if key in seen:
        raise YamlError(f"the key `{key[:80]}` is given twice", _mark(node.start_mark))
    return key


def _scalar(node: yaml.ScalarNode) -> object:
    text = str(node.value)
    match node.tag.removeprefix(_TAG):
        case "str" | "timestamp":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() in {"yes", "true", "on"}
        case "int" | "float" as kind:
            return _number(text, kind)
        case _:
            raise YamlError(f"the tag `{node.tag[:80]}` is not accepted", _mark(node.start_mark))


def _number(text: str, kind: str) -> object:
    """Return a plain decimal number; YAML 1.1's octal, sexagesimal and such stay text."""
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        return text


def _mark(mark: yaml.Mark) -> Mark:
    return mark.line + 1, mark.column + 1


def _position(text: str, index: int) -> Mark:
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1
