"""A place in a configuration: its settled value, and where it stands in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from egret_tools.envoy_lint.source import JsonValue, Mark, Path, Source

_CAMEL: Final = re.compile(r"_([a-z0-9])")


@dataclass(frozen=True, slots=True)
class Node:
    """One value; what is not there is None, and has the place of what should hold it."""

    value: JsonValue
    source: Source = field(repr=False)
    path: Path = ()

    def at(self, *steps: str | int) -> Node:
        """Return what is at *steps* below this one."""
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
        camel = (*self.path, _CAMEL.sub(lambda match: match[1].upper(), step))
        return camel if camel in self.source.marks else path

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

    @property
    def exists(self) -> bool:
        """Tell whether there is anything here."""
        return self.value is not None

    @property
    def is_written(self) -> bool:
        """Tell whether the text has it, and not only Envoy's defaults."""
        return self.path in self.source.marks

    @property
    def mark(self) -> Mark:
        """Return where it stands, or what should hold it."""
        return self.source.mark(self.path)

    @property
    def text(self) -> str:
        """Return a string, empty where there is none."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def is_true(self) -> bool:
        """Tell whether it is a boolean that is on."""
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
