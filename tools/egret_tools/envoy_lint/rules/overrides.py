"""Rules on what single routes change of the ext_proc filter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import EXT_PROC_PER_ROUTE, EnvoyConfig
from egret_tools.envoy_lint.node import Node
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Severity

_PER_ROUTE: Final = "envoy.filters.http.ext_proc"


def _overrides(config: EnvoyConfig) -> Iterator[Node]:
    """Yield every per-route setting of ext_proc."""
    for host in config.virtual_hosts():
        for holder in (host, *host.at("routes")):
            for name, one in holder.at("typed_per_filter_config").entries():
                if name == _PER_ROUTE or one.type_name == EXT_PROC_PER_ROUTE:
                    yield one


def _route_disabled(config: EnvoyConfig) -> Iterator[Hit]:
    for one in _overrides(config):
        if one.at("disabled").is_true:
            yield Hit(one.at("disabled"))


def _route_fails_open(config: EnvoyConfig) -> Iterator[Hit]:
    for one in _overrides(config):
        place = one.at("overrides", "failure_mode_allow")
        if place.is_true:
            yield Hit(place, replacement="false")


def _route_mode(config: EnvoyConfig) -> Iterator[Hit]:
    for one in _overrides(config):
        mode = one.at("overrides", "processing_mode")
        if mode.exists:
            yield Hit(mode)


_E, _W = Severity.ERROR, Severity.WARNING

RULES: Final = (
    ConfigRule("EGR123", "route-unguarded", _E,
         "requests on this route pass unchecked and without a key",
         "remove the override, or suppress this with the reason", _route_disabled),
    ConfigRule("EGR124", "route-fails-open", _E,
         "while Egret is down, requests on this route pass unchecked",
         "failure_mode_allow: false", _route_fails_open),
    ConfigRule("EGR125", "route-mode", _W,
         "Egret sees this mode on this route only, and a test of one route does not cover the "
         "others",
         "one processing_mode for all", _route_mode),
)  # fmt: skip
