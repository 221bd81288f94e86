"""Metrics of what happened on the way to an outcome, of errors, and of who is let alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar.domain.finding import GuardrailResult
from sidecar.telemetry import sanitize
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import OVERFLOW, LogEvent, MetricName

BREAKER_CLOSED: Final = 0
BREAKER_OPEN: Final = 2
"""As `BreakerState` numbers them."""


class RemoteMetrics:
    """One instance a process. The labels' functions bound how many values they have."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        guardrail_label: Callable[[str], str],
        error_label: Callable[[str], str],
    ) -> None:
        self._guardrail_label = guardrail_label
        self._error_label = error_label
        self._events = Counter(
            MetricName.REMOTE_EVENTS,
            "Remote checks answered from the cache, joined, retried, hedged.",
            ("guardrail", "event"),
            registry=registry,
        )
        self._errors = Counter(
            MetricName.GUARDRAIL_ERRORS,
            "Guardrail failures, by cause.",
            ("guardrail", "error_type"),
            registry=registry,
        )
        self._breakers = Gauge(
            MetricName.REMOTE_BREAKER_STATE,
            "Circuit breaker: 0 closed, 1 half open, 2 open; the highest of all workers.",
            ("guardrail",),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._shown: dict[str, int] = {}

    def count(self, result: GuardrailResult) -> None:
        """Count the events and the error of one result."""
        if not result.events and result.error_type is None:
            return
        name = self._guardrail_label(result.guardrail.name)
        for noted in result.events:
            self._events.labels(name, noted.event.value).inc()
        if result.error_type is not None:
            error_type = self._error_label(sanitize.word(result.error_type))
            self._errors.labels(name, error_type).inc()

    def breaker_is(self, guardrail: str, state: int) -> None:
        """Show the state of a guardrail's server; log when it is let alone, and asked again."""
        name = self._guardrail_label(guardrail)
        before = self._shown.get(name)
        # Beyond the cap many share a label, which would show whichever was asked last.
        if before == state or name == OVERFLOW:
            return
        self._shown[name] = state
        self._breakers.labels(name).set(state)
        if state == BREAKER_OPEN:
            get_logger().warning(LogEvent.BREAKER_OPENED, guardrail=name)
        elif before is not None and state == BREAKER_CLOSED:
            get_logger().info(LogEvent.BREAKER_CLOSED, guardrail=name)
