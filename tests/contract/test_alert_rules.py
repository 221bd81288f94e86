"""Alerts that Prometheus itself has checked, each with a runbook and with both of its cases."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sidecar.settings.sections import inherited_environment
from tests.support.metric_pages import sample_names

ROOT: Final = Path(__file__).parents[2]
PLACE: Final = ROOT / "deploy" / "prometheus"
CASES: Final = sorted(file.name for file in PLACE.glob("*.test.yaml"))
HEADINGS: Final = ["Meaning", "Impact", "Checks", "Fix"]
METRIC: Final = re.compile(
    r"\b(?:egret|gen_ai)_[a-z_]+(?:total|seconds|bytes|count|bucket|[a-z])\b"
)


def _alerts() -> dict[str, dict[str, Any]]:
    rules = yaml.safe_load((PLACE / "egret.rules.yaml").read_text(encoding="utf-8"))
    return {
        rule["alert"]: rule
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def _promtool(*arguments: str) -> None:
    # It makes a database for each case: a fifth of its CPU time goes into collecting garbage.
    environment = inherited_environment() | {"GOGC": "800"}
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=PLACE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["rules egret.rules.yaml", "config prometheus.yaml"])
def test_prometheus_takes_rules_and_configuration(what: str) -> None:
    """As Prometheus would read them."""
    _promtool("check", *what.split())


@pytest.mark.parametrize("cases", CASES)
def test_alerts_fire_and_stay_silent_as_their_cases_say(cases: str) -> None:
    """Prometheus evaluates the rules over made-up series."""
    _promtool("test", "rules", cases)


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    """A rule that cannot fire, or always does, would show."""
    seen = {
        (case["alertname"], bool(case["exp_alerts"]))
        for file in CASES
        for test in yaml.safe_load((PLACE / file).read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
    }

    assert seen == {(alert, fires) for alert in _alerts() for fires in (True, False)}


def test_each_alert_links_a_runbook_with_all_of_its_parts() -> None:
    """Each page gives meaning, impact, checks and fix; no page is left over."""
    links = {alert: rule["annotations"]["runbook_url"] for alert, rule in _alerts().items()}
    pages = {page.stem: page for page in (ROOT / "docs" / "runbooks").iterdir()}

    assert links == {name: f"https://egret.example/docs/runbooks/{name}/" for name in pages}
    for name, page in pages.items():
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n")
        assert re.findall("^## (.*)$", text, re.MULTILINE) == HEADINGS


def test_each_alert_describes_the_value_that_fired_it() -> None:
    """An alert on a series that is missing has none."""
    without_value = {
        alert
        for alert, rule in _alerts().items()
        if "$value" not in rule["annotations"]["description"]
    }

    assert without_value == {
        "EgretGone",
        "EgretKeyChangesUnheard",
        "EgretRemoteGuardrailDown",
        "EgretTargetDown",
        "EnvoyGone",
        "EnvoyMetricsMissing",
    }


def test_the_page_on_alerts_lists_each_with_its_severity_and_what_it_says() -> None:
    """In the words of the alert itself."""
    page = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| (.+) \|$", page, re.MULTILINE
    )

    assert rows == [
        (name, name, rule["labels"]["severity"], rule["annotations"]["summary"])
        for name, rule in _alerts().items()
    ]


def test_rules_and_runbooks_ask_for_metrics_that_there_are() -> None:
    """A query for a name that was mistyped is silent for ever."""
    texts = [PLACE / "egret.rules.yaml", *(ROOT / "docs" / "runbooks").iterdir()]
    asked = {
        name for file in texts for name in METRIC.findall(file.read_text(encoding="utf-8"))
    } - {"gen_ai_provider_name", "gen_ai_request_model"}

    assert asked - sample_names() == set()
    assert len(asked) > 20
