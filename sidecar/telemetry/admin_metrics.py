"""The metrics of `egret admin`, in its memory, and those that commands write to a file."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

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


def attachment_gauges(registry: CollectorRegistry) -> tuple[Gauge, Gauge]:
    """Return the gauges that `egret doctor` writes of a gateway: its checks, and their time."""
    attached = Gauge(
        MetricName.ATTACHED,
        "Whether a canary through this gateway had the result that it must.",
        ("gateway", "check"),
        registry=registry,
    )
    sent_at = Gauge(
        MetricName.ATTACHED_TIMESTAMP,
        "When the canaries were last sent.",
        ("gateway",),
        registry=registry,
    )
    return attached, sent_at


def installation_gauges(registry: CollectorRegistry) -> dict[str, Gauge]:
    """Return the gauges that `egret diff` and `egret apply` write of a set of files, by name."""
    told = {
        MetricName.INSTALLATION_DRIFT: "Whether files and database differ.",
        MetricName.INSTALLATION_CHECKED: "When egret diff last compared them.",
        MetricName.INSTALLATION_APPLIED: "When egret apply last ended with both alike.",
    }
    return {name: Gauge(name, text, ("set",), registry=registry) for name, text in told.items()}
