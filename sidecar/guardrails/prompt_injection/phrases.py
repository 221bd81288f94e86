"""Phrases of attacks: the file they are kept in, read into expressions.

The file's head tells how they are written; training gives each its weight, as it does to words.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.domain.local_guardrails import InjectionKind

_LIST: Final = re.compile(r"<([a-z]+)>")
_GAP: Final = re.compile(r"~([0-9]+) ")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A named expression over words. It starts and ends with the space around words."""

    name: str
    kind: InjectionKind
    regex: str


def read_phrases(text: str) -> tuple[Phrase, ...]:
    """Read a file of lists, kinds and phrases."""
    lists: dict[str, str] = {}
    kind = InjectionKind.INSTRUCTION_OVERRIDE
    phrases: list[Phrase] = []
    for line in _lines(text):
        head, _, rest = line.partition(":")
        if head.startswith("list "):
            lists[head.removeprefix("list ")] = f"(?:{'|'.join(rest.split())})"
        elif head.startswith("kind "):
            kind = InjectionKind(head.removeprefix("kind "))
        else:
            phrases.append(Phrase(head, kind, f" {_expression(rest.strip(), lists)} "))
    return tuple(phrases)


def _lines(text: str) -> Iterator[str]:
    """Return the lines, comments left out and continued ones joined."""
    joined = re.sub(r"\n +", " ", text)
    return (line for line in joined.splitlines() if line and not line.startswith("#"))


def _expression(pattern: str, lists: dict[str, str]) -> str:
    grouped = pattern.replace("(", "(?:")
    gapped = _GAP.sub(r"(?:[^ ]+ ){0,\1}", grouped)
    return _LIST.sub(lambda found: lists[found[1]], gapped)


PHRASES: Final = read_phrases(
    importlib.resources.files("sidecar.guardrails.prompt_injection")
    .joinpath("phrases.txt")
    .read_text(encoding="utf-8")
)
