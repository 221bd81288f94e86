"""Every configuration that Envoy takes or refuses, as lint sees it without one.

`tests/integration/test_lint_agrees_with_envoy.py` asks Envoy about the same.
"""

from __future__ import annotations

import pytest
from egret_tools.envoy_lint.lint import lint
from egret_tools.envoy_lint.rule import Finding

from tests.support.configurations.accepted import ACCEPTED
from tests.support.configurations.refused import REFUSED


def schema_findings(text: str) -> list[Finding]:
    """Return the findings that say that Envoy does not start."""
    return [
        one
        for one in lint("envoy.yaml", text).findings
        if one.rule.id in {"EGR001", "EGR002", "EGR106"}
    ]


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_envoy_takes_is_not_called_broken(name: str) -> None:
    """Enums in any case, numbers as text, structs, single values for lists."""
    assert schema_findings(ACCEPTED[name]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_envoy_refuses_is_called_broken(name: str) -> None:
    """One mistake is one finding or two, and the words are whole."""
    found = schema_findings(REFUSED[name])
    assert 1 <= len(found) <= 2
    assert all("} at " not in one.message and "Error" not in one.message for one in found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a misspelt field", "use_remote_adress: true"),
        ("an enum's value that does not exist", "HTTP4"),
        ("a duration in milliseconds", "500ms"),
        ("a negative number", "-1\n"),
        ("no stat_prefix", "''"),
        ("a status of no answer", "99\n"),
        ("a route to a cluster that is missing", "elsewhere"),
        ("a host name in a static cluster", "api.example.com"),
        ("a port that does not exist", "70000"),
        ("a vendor's filter", "'@type': type.googleapis.com/vendor"),
        ("a key that merges", "<<"),
    ],
)
def test_a_mistake_is_reported_where_it_stands(name: str, text: str) -> None:
    """Line and column, and not those of the document."""
    lines = REFUSED[name].splitlines(keepends=True)
    line = next(number for number, one in enumerate(lines, start=1) if text in one)
    (found,) = schema_findings(REFUSED[name])
    mark = found.hit.node.mark
    assert (mark.line, mark.column) == (line, lines[line - 1].index(text) + 1)


def test_one_mistake_does_not_hide_the_others() -> None:
    """Nor the rules on everything else."""
    text = (
        ACCEPTED["router by meaning"]
        .replace("stat_prefix: ingress", "stat_prefix: ingress\n          codec_type: HTTP4")
        .replace("message_timeout: 300s", "message_timeout: long")
    )
    found = [one.rule.id for one in lint("envoy.yaml", text).findings]
    assert found.count("EGR001") == 2
    assert set(found) >= {"EGR101", "EGR107", "EGR504"}
    assert "EGR102" not in found
