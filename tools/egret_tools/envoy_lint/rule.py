"""Rules of the lint and their findings, and the looks that rules on ext_proc share."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import re2

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
    """A rule on Kubernetes resources of *kinds*; it looks at the resource as a whole."""

    kinds: tuple[str, ...]
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


_SIGNERS: Final = ("CredentialInjector", "AwsRequestSigning", "GcpAuthnFilterConfig")

Broken = Callable[[Node], Node | None]
"""Returns the place within a node that is at fault, None if none is."""

_Source = TypeVar("_Source")
_Part = TypeVar("_Part")


def in_each(
    parts: Callable[[_Source], Iterable[_Part]],
    broken: Callable[[_Part], Node | None],
    replacement: str | None = None,
    *,
    about: Callable[[_Part], str] = lambda _: "",
) -> Callable[[_Source], Iterator[Hit]]:
    """Look in each of the *parts* for a place that is *broken*; *about* names a part."""

    def look(source: _Source) -> Iterator[Hit]:
        for one in parts(source):
            place = broken(one)
            if place is not None:
                yield Hit(place, about(one), replacement)

    return look


def where(broken: Broken, replacement: str | None = None) -> Look:
    """Look for filters in which *broken* names a place."""
    return in_each(EnvoyConfig.filters, broken, replacement)


def on(*path: str) -> Broken:
    """Name the place at *path* where it is on."""
    return lambda one: place if (place := one.at(*path)).is_true else None


def off(*path: str) -> Broken:
    """Name the place at *path* where it is not on."""
    return lambda one: None if (place := one.at(*path)).is_true else place


def present(*path: str) -> Broken:
    """Name the place at *path* where it is set."""
    return lambda one: place if (place := one.at(*path)).exists else None


def absent(*path: str) -> Broken:
    """Name the place at *path* where it is not set."""
    return lambda one: None if (place := one.at(*path)).exists else place


def lacking(text: str, *path: str) -> Broken:
    """Name the list at *path* where it does not have *text*."""
    return lambda one: None if any(each.text == text for each in one.at(*path)) else one.at(*path)


def regex_matches(regex: Node, name: str) -> bool:
    """Return whether the expression at *regex* is one, and matches all of *name*."""
    if not regex.text:
        return False
    try:
        return re2.fullmatch(regex.text, name) is not None
    except re2.error:
        return False


def is_signer(settings: Node) -> bool:
    """Return whether a filter adds a provider's credential to requests."""
    return settings.type_name.endswith(_SIGNERS)
