"""The metrics of `egret admin`, in its memory: each process has its own."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter

from sidecar.telemetry.names import MetricName

SIGN_INS: Final = ("token", "link", "oidc")


class AdminMetrics:
    """Counts requests, refused sign-ins, and messages of alerts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            MetricName.ADMIN_REQUESTS,
            "Requests to egret admin, by the path of their route.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._refused = Counter(
            MetricName.ADMIN_SIGN_INS_REFUSED,
            "Tokens, one-time links and logins by OpenID Connect that were refused.",
            ("by",),
            registry=registry,
        )
        self._alerts = Counter(
            MetricName.ALERT_MESSAGES,
            "Attempts to send a message of an alert, by outcome.",
            ("outcome",),
            registry=registry,
        )
        for by in SIGN_INS:  # a rate needs the zero before the first
            self._refused.labels(by)
        for outcome in ("delivered", "failed"):
            self._alerts.labels(outcome)

    def answered(self, route: str, method: str, status: int) -> None:
        """Count a request; *route* is the path of its route, which holds no name."""
        self._requests.labels(route, method, str(status)).inc()

    def sign_in_refused(self, by: str) -> None:
        """Count a sign-in, one of `SIGN_INS`."""
        self._refused.labels(by).inc()

    def alert_sent(self, *, is_delivered: bool) -> None:
        """Count an attempt to send a message."""
        self._alerts.labels("delivered" if is_delivered else "failed").inc()
