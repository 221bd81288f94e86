"""Reads YAML and keeps the position of every value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import yaml
from typing_extensions import override

MAX_TEXT_CHARACTERS: Final = 1_000_000
MAX_DEPTH: Final = 60
"""A policy is five levels deep, a schema in it twice as deep as the value it describes; more is
an attack on the parser's stack."""

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, both from 1."""

_TAG: Final = "tag:yaml.org,2002:"


class YamlError(Exception):
    """Text that is not the YAML that is accepted; `mark` is the place."""

    def __init__(self, problem: str, mark: Mark) -> None:
        super().__init__(problem)
        self.problem = problem
        self.mark = mark


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document: its plain value, the position of each value and key, and its own text."""

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


def read_yaml(text: str, *, max_characters: int = MAX_TEXT_CHARACTERS) -> tuple[YamlDocument, ...]:
    """Read every document of *text*; empty ones are left out.

    Raises:
        YamlError: on the first place that is not YAML, or uses anchors, tags or a key twice.
    """
    if len(text) > max_characters:
        raise YamlError(f"longer than {max_characters} characters", (1, 1))
    nodes: list[tuple[int, yaml.Node]] = []
    try:
        loader = _Loader(text)
        try:
            loader.check_node()  # takes the start of the stream
            while loader.check_node():
                event = loader.peek_event()  # type: ignore[no-untyped-call]  # a stub without types
                node = loader.compose_document()
                if node is not None:
                    nodes.append((event.start_mark.index, node))
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise YamlError(error.problem or "not YAML", _mark(at) if at else (1, 1)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        raise YamlError(f"not YAML: {error.reason}", mark) from None
    # A document's text runs up to the next one's dashes, so that joined they are the whole.
    ends = [*(start for start, _ in nodes[1:]), len(text)]
    documents: list[YamlDocument] = []
    for index, ((start, node), end) in enumerate(zip(nodes, ends, strict=False)):
        values: dict[Path, Mark] = {}
        keys: dict[Path, Mark] = {}
        value = _plain(node, (), values, keys)
        if value is not None:
            piece = text[0 if index == 0 else start : end]
            documents.append(YamlDocument(value=value, values=values, keys=keys, text=piece))
    return tuple(documents)


def _plain(
    node: yaml.Node, path: Path, values: dict[Path, Mark], keys: dict[Path, Mark]
) -> object:
    """Return the plain value of *node*; note where it and everything in it stood."""
    at = values[path] = _mark(node.start_mark)
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            key_at = _mark(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError("a key must be a plain word", key_at)
            key = str(key_node.value)
            if key_node.tag == f"{_TAG}merge":
                raise YamlError("merge keys are not accepted", key_at)
            if key in mapping:
                raise YamlError(f"the key `{key[:80]}` is given twice", key_at)
            keys[(*path, key)] = key_at
            mapping[key] = _plain(value_node, (*path, key), values, keys)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        items = enumerate(node.value)
        return [_plain(item, (*path, index), values, keys) for index, item in items]
    kind = node.tag.removeprefix(_TAG) if isinstance(node, yaml.ScalarNode) else ""
    text = str(node.value) if kind else ""
    match kind:
        case "str" | "timestamp":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() in {"yes", "true", "on"}
        case "int" | "float":
            try:  # decimal; YAML 1.1's octal, sexagesimal and such stay text
                return int(text) if kind == "int" else float(text)
            except ValueError:
                return text
        case _:
            raise YamlError(f"the tag `{node.tag[:80]}` is not accepted", at)


def _mark(mark: yaml.Mark) -> Mark:
    return mark.line + 1, mark.column + 1
