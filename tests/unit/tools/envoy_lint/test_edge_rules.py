"""Routes to Envoy's own admin: what of it others may read, and what no route should lead to."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from egret_tools.envoy_lint.lint import lint

from tests.support.configurations.accepted import ACCEPTED
from tests.support.configurations.build import cluster, hosts, listener, manager, static
from tests.support.own_envoy import beside, own_text, with_mistake

WITHOUT_EGRET = [text for text in ACCEPTED.values() if "xternalProcessor" not in text]

GET = {"name": ":method", "string_match": {"exact": "GET"}}
STATS = "/stats/prometheus"


def rules(match: dict[str, Any], **action: Any) -> set[str]:
    """Return what is found where the route of metrics is another."""
    config = yaml.safe_load(own_text())
    manager = config["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]
    route = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]
    route["match"] = match
    route["route"] = action or route["route"]
    return found(yaml.safe_dump(config))


def found(text: str) -> set[str]:
    """Return the ids of the rules that *text* breaks."""
    return {one.rule.id for one in lint("envoy.yaml", text).findings}


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


def test_a_configuration_without_egret_breaks_one_rule() -> None:
    """And none, if its listeners come from elsewhere."""
    verdicts: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    for text in WITHOUT_EGRET:
        here = yaml.safe_load(text).get("static_resources", yaml.safe_load(text))
        ids = tuple(one.rule.id for one in lint("envoy.yaml", text).findings)
        verdicts["isteners': [{" in repr(here)].add(ids)
    assert verdicts == {True: {("EGR501",)}, False: {()}}


def test_a_listener_that_has_nothing_to_do_with_models_is_noted_and_no_more() -> None:
    """An Envoy serves websites, databases and much else beside Egret."""
    configs = [yaml.safe_load(text) for text in WITHOUT_EGRET]
    sites = [one for one in configs if one.get("static_resources", {}).get("listeners")]
    assert len(sites) >= 25
    for site in sites:
        own = lint("envoy.yaml", with_mistake(beside(site))).findings
        assert {one.rule.id for one in own} == {"EGR535"}, site
        assert len(own) == len(site["static_resources"]["listeners"])


@pytest.mark.parametrize(
    ("host", "is_found"),
    [
        ("api.openai.com", True),
        ("my-account.openai.azure.com", True),
        ("europe-west4-aiplatform.googleapis.com", True),
        ("bedrock-runtime.eu-central-1.amazonaws.com", True),
        ("storage.googleapis.com", False),
        ("www.example.com", False),
    ],
)
def test_a_listener_beside_egrets_is_unguarded_if_a_provider_is_behind_it(
    host: str, *, is_found: bool
) -> None:
    """By the host's name: no route of Egret's listeners leads there."""
    routes = hosts({"match": {"prefix": "/"}, "route": {"cluster": "behind"}})
    beside_it = static(
        listener(manager(route_config=routes)), clusters=(cluster("behind", host=host),)
    )
    rules_ = found(with_mistake(beside(beside_it)))
    assert ("EGR502" in rules_, "EGR535" in rules_) == (is_found, not is_found)
