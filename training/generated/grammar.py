r"""Grammars in text files: sections of templates with slots, expanded without chance.

A file has sections, each with a name and a variant: `[override a]`. A line `name = one | two`
defines a slot of the file (`slots.txt` has those of all files), every other line is a template.
`$name` or `${name}` stands for a slot, `(one|two|)` for a choice in place, `¦` for a bar that is
text, `¤` for a made-up word, `\n` for a new line, `#` begins a comment. Slots and choices may
contain others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
SHARED: Final = FOLDER / "slots.txt"
_SECTION: Final = re.compile(r"\[(\w+) (\w+)\]")
_SLOT: Final = re.compile(r"([a-z][a-z0-9_]*) = (.+)")
_USE: Final = re.compile(r"\$(?:\{([a-z][a-z0-9_]*)\}|([a-z][a-z0-9_]*))")
_CHOICE: Final = re.compile(r"\(([^()]*\|[^()]*)\)")
_SPACES: Final = re.compile(r" +(?= )| +(?=[.,;](?:\s|\Z))")
_BETWEEN: Final = re.compile(r"(?:(?<=\s)|\A)\|(?=\s|\Z)")
_BAR: Final = "¦"
_MADE_UP: Final = "¤"
"""A word as of a host, another one in each text: a model would remember a list of them."""

_SYLLABLES: Final = tuple(a + b for a in "bcdfghklmnprstvz" for b in "aeiou")


@dataclass(frozen=True, slots=True)
class Grammar:
    """The templates of one section, with the slots of its file."""

    name: str
    variant: str
    templates: tuple[str, ...]
    slots: Mapping[str, Sequence[str]]

    def texts(self, per_template: int) -> Iterator[str]:
        """Return up to *per_template* distinct texts of each template, the same each time.

        Raises:
            KeyError: a template uses a slot that its file does not define.
        """
        for template in self.templates:
            chance = seeded(self.name, self.variant, template)
            found = dict[str, None]()
            for _ in range(3 * per_template):
                found[self._filled(template, chance)] = None
                if len(found) == per_template:
                    break
            yield from found

    def _filled(self, template: str, chance: random.Random) -> str:
        text = template
        while (match := _USE.search(text)) or (match := _CHOICE.search(text)):
            if match.re is _USE:
                chosen = chance.choice(self.slots[match[1] or match[2]])
            else:
                chosen = chance.choice(match[1].split("|"))
            text = text[: match.start()] + chosen + text[match.end() :]
        while _MADE_UP in text:
            word = "".join(chance.choices(_SYLLABLES, k=chance.choice((2, 3, 3, 4))))
            text = text.replace(_MADE_UP, word, 1)
        return _SPACES.sub("", text).replace(_BAR, "|").replace("\\n", "\n").strip()


def seeded(*names: str) -> random.Random:
    """Return the chance of *names*: the same numbers for the same names."""
    return random.Random("\0".join(names))  # noqa: S311 - chooses training texts, protects nothing


def read_grammars(path: Path) -> tuple[Grammar, ...]:
    """Read the sections of a file.

    Raises:
        ValueError: a template stands before the first section.
    """
    slots: dict[str, list[str]] = {}
    sections: dict[tuple[str, str], list[str]] = {}
    templates: list[str] | None = None
    for line in (*_lines(SHARED), *_lines(path)):
        if match := _SECTION.fullmatch(line):
            templates = sections.setdefault((match[1], match[2]), [])
        elif match := _SLOT.fullmatch(line):
            slots[match[1]] = [one.strip() for one in _BETWEEN.split(match[2])]
        elif templates is None:
            raise ValueError(f"{path.name}: a template before the first section: {line}")
        else:
            templates.append(line)
    return tuple(
        Grammar(name, variant, tuple(templates), slots)
        for (name, variant), templates in sections.items()
    )


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line
