"""Reads YAML and keeps the position of every value; writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, cast

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
_MAPPING: Final = frozenset({None, "!", f"{_TAG}map"})
_SEQUENCE: Final = frozenset({None, "!", f"{_TAG}seq"})


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
    starts: list[int] = []
    found: list[tuple[object, dict[Path, Mark], dict[Path, Mark]]] = []
    try:
        # Its events alone: nodes that are composed of them take as long again.
        loader: Any = LOADER(content)
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                starts.append(cast("yaml.Mark", event.start_mark).index)
                values: dict[Path, Mark] = {}
                keys: dict[Path, Mark] = {}
                found.append((_value(loader, loader.get_event(), (), values, keys), values, keys))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise YamlError(error.problem or "not YAML", _mark(at) if at else (1, 1)) from None
    except yaml.reader.ReaderError as error:
        before = content[: error.position].decode(errors="ignore")
        raise YamlError(f"not YAML: {error.reason}", _mark_at(before)) from None
    # A document's text runs up to the next one's dashes, so that joined they are the whole.
    pieces = pairwise([0, *starts[1:], len(text)])
    return tuple(
        YamlDocument(value=value, values=values, keys=keys, text=text[start:end])
        for (value, values, keys), (start, end) in zip(found, pieces, strict=False)
        if value is not None
    )


def write_yaml(value: object) -> str:
    """Return *value* as a document with its fields in their order."""
    text: str = yaml.dump(value, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=1_000)
    return text


def _value(
    loader: Any,
    event: yaml.ScalarEvent | yaml.CollectionStartEvent,
    path: Path,
    values: dict[Path, Mark],
    keys: dict[Path, Mark],
) -> object:
    """Return the plain value that begins with *event*; note where it and everything in it stood.

    Anchors and depth are refused before anything can be multiplied.
    """
    at = values[path] = _checked(event, len(path))
    if isinstance(event, yaml.MappingStartEvent) and event.tag in _MAPPING:
        mapping: dict[str, object] = {}
        while not isinstance(named := loader.get_event(), yaml.MappingEndEvent):
            key_at = _checked(named, len(path) + 1)
            if not isinstance(named, yaml.ScalarEvent):
                raise YamlError("a key must be a plain word", key_at)
            key = named.value
            if _tag(loader, named) == f"{_TAG}merge":
                raise YamlError("merge keys are not accepted", key_at)
            if key in mapping:
                raise YamlError(f"the key `{key[:80]}` is given twice", key_at)
            step = (*path, key)
            keys[step] = key_at
            mapping[key] = _value(loader, loader.get_event(), step, values, keys)
        return mapping
    if isinstance(event, yaml.SequenceStartEvent) and event.tag in _SEQUENCE:
        items: list[object] = []
        while not isinstance(item := loader.get_event(), yaml.SequenceEndEvent):
            items.append(_value(loader, item, (*path, len(items)), values, keys))
        return items
    if not isinstance(event, yaml.ScalarEvent):
        raise _unknown_tag(str(event.tag), at)
    return _scalar(_tag(loader, event), event.value, at)


def _scalar(tag: str, text: str, at: Mark) -> object:
    match tag.removeprefix(_TAG):
        case "str" | "timestamp":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() in {"yes", "true", "on"}
        case "int" | "float" as kind:
            try:  # decimal; YAML 1.1's octal, sexagesimal and such stay text
                return int(text) if kind == "int" else float(text)
            except ValueError:
                return text
        case _:
            raise _unknown_tag(tag, at)


def _unknown_tag(tag: str, at: Mark) -> YamlError:
    return YamlError(f"the tag `{tag[:80]}` is not accepted", at)


def _checked(event: yaml.NodeEvent, depth: int) -> Mark:
    """Return the place of *event*.

    Raises:
        YamlError: it has an anchor, or is too deep.
    """
    at = _mark(event.start_mark)
    if event.anchor is not None:
        raise YamlError("anchors and aliases are not accepted", at)
    if depth >= MAX_DEPTH:
        raise YamlError(f"nested deeper than {MAX_DEPTH} levels", at)
    return at


def _tag(loader: Any, event: yaml.ScalarEvent) -> str:
    if event.tag is None or event.tag == "!":
        return str(loader.resolve(yaml.ScalarNode, event.value, event.implicit))
    return event.tag


def _mark(mark: Any) -> Mark:
    return mark.line + 1, mark.column + 1


def _mark_at(before: str) -> Mark:
    return before.count("\n") + 1, len(before) - before.rfind("\n")
