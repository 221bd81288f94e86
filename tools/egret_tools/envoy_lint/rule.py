"""Rules of the lint and their findings, and the looks that rules on ext_proc share."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from egret_tools.envoy_lint.config import EnvoyConfig
from egret_tools.envoy_lint.source import Node


class Severity(enum.Enum):
    """ERROR: requests pass unjudged, leak or fail. WARNING: they may. NOTE: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Hit:
    """One place that breaks a rule. `replacement` is the text of a scalar that would fix it.

    `risk` and `hint` stand in for those of the rule.
    """

    node: Node
    about: str = ""
    replacement: str | None = None
    risk: str = ""
    hint: str = ""


Look = Callable[[EnvoyConfig], Iterable[Hit]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to look for. `risk` says in a sentence why it is a fault, `hint` how to fix it."""

    id: str
    name: str
    severity: Severity
    risk: str
    hint: str


@dataclass(frozen=True, slots=True)
class ConfigRule(Rule):
    """A rule on a configuration of Envoy's own."""

    look: Look


@dataclass(frozen=True, slots=True)
class ResourceRule(Rule):
    """A rule on a Kubernetes resource of *kind*; it looks at the resource as a whole."""

    kind: str
    look: Callable[[Node], Iterable[Hit]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a place breaks."""

    rule: Rule
    hit: Hit

    @property
    def message(self) -> str:
        """The risk, with its subject in front."""
        risk = self.hit.risk or self.rule.risk
        return f"{self.hit.about}: {risk}" if self.hit.about else risk

    @property
    def hint(self) -> str:
        """The way to fix it."""
        return self.hit.hint or self.rule.hint


def is_on(field: str, *, replacement: str = "false") -> Look:
    """Look for filters where *field* is on."""

    def look(config: EnvoyConfig) -> Iterator[Hit]:
        for one in config.filters():
            if one.at(field).is_true:
                yield Hit(one.at(field), replacement=replacement)

    return look


def where(broken: Callable[[Node], Node | None]) -> Look:
    """Look for filters in which *broken* names a place."""

    def look(config: EnvoyConfig) -> Iterator[Hit]:
        for one in config.filters():
            place = broken(one)
            if place is not None:
                yield Hit(place)

    return look
