"""Metrics of keys, limits and budgets."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from sidecar.domain.limits import Level, Window
from sidecar.telemetry.key_metrics import KeyMetrics, LimitMetrics


def test_a_budget_is_counted_and_shown_by_level_alone() -> None:
    """A key or a team as a label would be without bound."""
    registry = CollectorRegistry()
    metrics = LimitMetrics(registry)
    for threshold in (50, 80, 80):
        metrics.threshold_passed(Level.TEAM, threshold)
    metrics.budget_left(Level.ORGANIZATION, Window.MONTH, 0.25)

    thresholds = {
        threshold: registry.get_sample_value(
            "egret_budget_thresholds_passed_total", {"level": "team", "threshold": threshold}
        )
        for threshold in ("50", "80")
    }
    assert thresholds == {"50": 1, "80": 2}
    of_month = {"level": "organization", "window": "month"}
    assert registry.get_sample_value("egret_budget_remaining_ratio", of_month) == 0.25


def test_a_subscription_to_key_changes_is_shown_under_its_former_name_too() -> None:
    """Dashboards and alerts of one version ago go on."""
    registry = CollectorRegistry()
    metrics = KeyMetrics(registry)
    metrics.key_notifications_connected(is_so=True)

    names = ("egret_key_notifications_connected", "egret_key_changes_heard")
    assert [registry.get_sample_value(name) for name in names] == [1, 1]
