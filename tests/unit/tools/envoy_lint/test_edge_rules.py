"""Routes to Envoy's own admin: what of it others may read, and what no route should lead to."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from egret_tools.envoy_lint.lint import lint

from tests.support.own_envoy import own_text

GET = {"name": ":method", "string_match": {"exact": "GET"}}
STATS = "/stats/prometheus"


def rules(match: dict[str, Any], **action: Any) -> set[str]:
    """Return what is found where the route of metrics is another."""
    config = yaml.safe_load(own_text())
    manager = config["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]
    route = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]
    route["match"] = match
    route["route"] = action or route["route"]
    return {one.rule.id for one in lint("envoy.yaml", yaml.safe_dump(config)).findings}


@pytest.mark.parametrize("path", [STATS, "/stats", "/ready"])
def test_a_public_path_that_only_shows_figures_is_no_finding(path: str) -> None:
    """One path, and reading alone."""
    assert rules({"path": path, "headers": [GET]}) == set()


@pytest.mark.parametrize(
    "match",
    [
        {"prefix": "/"},
        {"prefix": STATS, "headers": [GET]},
        {"safe_regex": {"regex": ".*"}, "headers": [GET]},
        {"path": STATS},
        {"path": STATS, "headers": [{**GET, "invert_match": True}]},
        {"path": STATS, "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]},
        {"path": STATS, "headers": [{"name": "x-method", "string_match": {"exact": "GET"}}]},
        {"path": "/config_dump", "headers": [GET]},
        {"path": "/quitquitquit", "headers": [GET]},
    ],
)
def test_all_else_of_the_admin_is_kept_from_others(match: dict[str, Any]) -> None:
    """Whatever else a route leaves open is found, and nothing is said of providers."""
    assert rules(match) == {"EGR523"}


def test_a_route_that_may_also_reach_a_provider_is_looked_at_as_both() -> None:
    """It is not left out of what providers' routes are looked at for."""
    clusters = [{"name": "admin", "weight": 1}, {"name": "openai", "weight": 1}]
    assert {"EGR401", "EGR407", "EGR523"} <= rules(
        {"prefix": "/"}, weighted_clusters={"clusters": clusters}
    )
