"""Reads YAML and keeps the position of every value; writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast

import yaml

MAX_TEXT_CHARACTERS: Final = 1_000_000
MAX_DEPTH: Final = 60
"""A policy is five levels deep, a schema in it twice as deep as the value it describes; more is
an attack on the parser's stack."""

Path = tuple[str | int, ...]
Mark = tuple[int, int]
"""Line and column, both from 1."""

LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Of libyaml, which PyYAML's wheels have in them: three times as fast, and more on bad input."""
_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""PyYAML's own loses U+0085 in a text; libyaml escapes it, and emoji too."""

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


def read_yaml(text: str, *, max_characters: int = MAX_TEXT_CHARACTERS) -> tuple[YamlDocument, ...]:
    """Read every document of *text*; empty ones are left out.

    Raises:
        YamlError: on the first place that is not YAML, or uses anchors, tags or a key twice.
    """
    if len(text) > max_characters:
        raise YamlError(f"longer than {max_characters} characters", (1, 1))
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise YamlError("not YAML: a lone surrogate", _mark_at(text[: error.start])) from None
    try:
        starts = _starts(content)
        nodes = [*yaml.compose_all(content, Loader=LOADER)]
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise YamlError(error.problem or "not YAML", _mark(at) if at else (1, 1)) from None
    except yaml.reader.ReaderError as error:
        before = content[: error.position].decode(errors="ignore")
        raise YamlError(f"not YAML: {error.reason}", _mark_at(before)) from None
    # A document's text runs up to the next one's dashes, so that joined they are the whole.
    ends = [*starts[1:], len(text)]
    documents: list[YamlDocument] = []
    for index, (node, start, end) in enumerate(zip(nodes, starts, ends, strict=False)):
        values: dict[Path, Mark] = {}
        keys: dict[Path, Mark] = {}
        value = _plain(node, (), values, keys)
        if value is not None:
            piece = text[0 if index == 0 else start : end]
            documents.append(YamlDocument(value=value, values=values, keys=keys, text=piece))
    return tuple(documents)


def write_yaml(value: object) -> str:
    """Return *value* as a document with its fields in their order."""
    text: str = yaml.dump(value, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=1_000)
    return text


def _starts(content: bytes) -> list[int]:
    """Return where each document begins, in characters.

    Refuses anchors and depth before nodes are made and anything can be multiplied.
    """
    starts: list[int] = []
    depth = 0
    for event in yaml.parse(content, Loader=LOADER):
        at = cast("yaml.Mark", event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            starts.append(at.index)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None:
                raise YamlError("anchors and aliases are not accepted", _mark(at))
            if depth >= MAX_DEPTH:
                raise YamlError(f"nested deeper than {MAX_DEPTH} levels", _mark(at))
            depth += isinstance(event, yaml.CollectionStartEvent)
    return starts


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


def _mark_at(before: str) -> Mark:
    return before.count("\n") + 1, len(before) - before.rfind("\n")
