"""Metrics of remote guardrails: retries, hedges, cache hits, failures, circuit breakers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar.domain.finding import GuardrailResult
from sidecar.telemetry import sanitize
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import OVERFLOW, LogEvent, MetricName
from sidecar.telemetry.sanitize import LabelCap

BREAKER_CLOSED: Final = 0
BREAKER_OPEN: Final = 2
"""As `BreakerState` numbers them."""


class RemoteMetrics:
    """One instance a process."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        guardrail_label: LabelCap,
    ) -> None:
        self._guardrail_label = guardrail_label
        self._error_label = LabelCap()
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
            ("guardrail", "scope"),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._shown: dict[tuple[str, str], int] = {}

    def count(self, result: GuardrailResult) -> None:
        """Count the events and the error of one result."""
        name = self._guardrail_label(result.guardrail.name)
        for noted in result.events:
            self._events.labels(name, noted.event.value).inc()
        if result.failure is not None:
            error_type = self._error_label(sanitize.word(result.failure.error_type))
            self._errors.labels(name, error_type).inc()

    def breaker_is(self, guardrail: str, scope: str, state: int) -> None:
        """Show the circuit breaker of a guardrail's server; log when it opens and closes.

        *scope* says for whom: `all`, or one `organization`, which is not named.
        """
        name = self._guardrail_label(guardrail)
        before = self._shown.get((name, scope))
        # Beyond the cap many share a label, which would show the state of the last one called.
        if before == state or name == OVERFLOW:
            return
        self._shown[name, scope] = state
        self._breakers.labels(name, scope).set(state)
        if state == BREAKER_OPEN:
            get_logger().warning(LogEvent.BREAKER_OPENED, guardrail=name, scope=scope)
        elif before is not None and state == BREAKER_CLOSED:
            get_logger().info(LogEvent.BREAKER_CLOSED, guardrail=name, scope=scope)

    def guardrails_are(self, names: Iterable[str]) -> None:
        """Show no open circuit breaker of a guardrail that is in no policy any more."""
        if not self._shown:
            return
        present = frozenset(names)
        for gone in [key for key in self._shown if key[0] not in present]:
            del self._shown[gone]
            self._breakers.labels(*gone).set(BREAKER_CLOSED)
