"""The registry of rules: each file beside this one has a tuple of them; six are on the text."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from egret_tools.envoy_lint.rule import ConfigRule, ResourceRule, Rule, Severity
from egret_tools.envoy_lint.rules import (
    chains,
    edge,
    ext_proc,
    gateways,
    logs,
    providers,
    routes,
    versions,
    workers,
)

SCHEMA: Final = Rule(
    "EGR001", "schema", Severity.ERROR,
    "Envoy does not start with this, or a control plane's update is rejected",
    "correct the name or the value",
)  # fmt: skip
UNKNOWN_EXTENSION: Final = Rule(
    "EGR002", "unknown-extension", Severity.NOTE,
    "Envoy 1.40 does not have this type; nothing in it was checked", "check it by hand",
)  # fmt: skip
BARE_SUPPRESSION: Final = Rule(
    "EGR003", "suppression-without-reason", Severity.WARNING,
    "no reader can decide whether it is still needed",
    "egret-lint: ignore=ID why it is right here",
)  # fmt: skip
IDLE_SUPPRESSION: Final = Rule(
    "EGR004", "suppression-of-nothing", Severity.NOTE,
    "the rule finds nothing here", "remove the comment",
)  # fmt: skip
NOT_CHECKED: Final = Rule(
    "EGR005", "not-checked", Severity.WARNING,
    "nothing in it was checked",
    "check the config dump of the Envoy that gets it, or pass --allow-unchecked",
)  # fmt: skip

TOO_NEW: Final = Rule(
    "EGR006", "newer-than-envoy", Severity.ERROR,
    "this Envoy does not know it, and does not start, or rejects a control plane's update",
    "leave it out, or the version that is named",
)  # fmt: skip

CONFIG_RULES: Final[tuple[ConfigRule, ...]] = tuple(
    sorted(
        (
            *ext_proc.RULES,
            *workers.RULES,
            *providers.RULES,
            *routes.RULES,
            *edge.RULES,
            *chains.RULES,
            *logs.RULES,
            *versions.RULES,
        ),
        key=attrgetter("id"),
    )
)
RESOURCE_RULES: Final[tuple[ResourceRule, ...]] = gateways.RULES
ALL_RULES: Final[tuple[Rule, ...]] = (
    SCHEMA,
    UNKNOWN_EXTENSION,
    BARE_SUPPRESSION,
    IDLE_SUPPRESSION,
    NOT_CHECKED,
    TOO_NEW,
    *CONFIG_RULES,
    *RESOURCE_RULES,
)
