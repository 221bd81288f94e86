"""The names that alerts, their routes and their documents share."""

from __future__ import annotations

import enum


class Severity(enum.Enum):
    """The severity of an alert, the least first."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"
    """Is sent at once, whatever quiet hours or digest its route has."""

    def reaches(self, least: Severity) -> bool:
        """Return whether a route that takes *least* and above takes this one."""
        order = list(Severity)
        return order.index(self) >= order.index(least)


class AlertRule(enum.Enum):
    """The rules, each with an entry in `sidecar.alerts.rules`."""

    BUDGET_THRESHOLD = "budget_threshold"
    BUDGET_SPENT = "budget_spent"
    GUARDRAIL_SPIKE = "guardrail_spike"
    FAIL_OPEN = "fail_open"
    KEY_EXPIRES = "key_expires"
    KEY_EXPIRES_TOMORROW = "key_expires_tomorrow"
    KEYS_UNUSED = "keys_unused"
    KEY_LEAKED = "key_leaked"
    FILTER_UNATTACHED = "filter_unattached"
    WORKER_DIED = "worker_died"
    WORKER_SILENT = "worker_silent"
    ROUTE_FAILS = "route_fails"
    TEST = "test"
    """Raised by `egret alerts test` for one route; no rule finds it."""


class Channel(enum.Enum):
    """The kind of receiver of a route."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    TEAMS = "teams"
    PAGERDUTY = "pagerduty"
    MAIL = "mail"


class Digest(enum.Enum):
    """How often a route collects its alerts into one message."""

    HOURLY = "hourly"
    DAILY = "daily"
