"""What rules on the ext_proc filter share: they look at each one of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from egret_tools.envoy_lint.config import EnvoyConfig
from egret_tools.envoy_lint.node import Node
from egret_tools.envoy_lint.rule import Hit, Look


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
