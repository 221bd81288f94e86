"""The rule on routes to Envoy's own admin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from egret_tools.envoy_lint.config import EnvoyConfig
from egret_tools.envoy_lint.node import Node
from egret_tools.envoy_lint.rule import ConfigRule, Hit, Severity

HARMLESS: Final = ("/stats/prometheus", "/stats", "/ready")
"""What of the admin others may read: numbers, and whether it serves."""


def _open_route(config: EnvoyConfig) -> Iterator[Hit]:
    for route in config.admin_routes():
        match = route.at("match")
        if match.at("path").text not in HARMLESS or not any(map(_is_get, match.at("headers"))):
            yield Hit(match)


def _is_get(header: Node) -> bool:
    is_method = header.at("name").text == ":method" and not header.at("invert_match").is_true
    return is_method and header.at("string_match", "exact").text == "GET"


RULES: Final = (
    ConfigRule("EGR523", "admin-routed", Severity.ERROR,
         "every client with access to this route reaches Envoy's admin, which can stop Envoy and "
         "show its configuration",
         'match: {path: /stats/prometheus, headers: [{name: ":method", '
         "string_match: {exact: GET}}]}",
         _open_route),
)  # fmt: skip
