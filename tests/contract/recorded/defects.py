"""Recorded behaviour that is known to be wrong: a change of it is meant, and recorded anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect and the conversations that show it, by how their names begin."""

    what: str
    groups: tuple[str, ...]
    names: tuple[str, ...] = ("",)

    def concerns(self, group: str, name: str) -> bool:
        """Tell whether a conversation shows it."""
        return group in self.groups and name.startswith(self.names)


DEFECTS: Final[tuple[Defect, ...]] = ()
