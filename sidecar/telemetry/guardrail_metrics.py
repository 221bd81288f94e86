"""Metrics of guardrails, local and remote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.domain.finding import GuardrailResult
from sidecar.domain.policy import Guardrail
from sidecar.domain.report import ExchangeReport
from sidecar.telemetry import sanitize
from sidecar.telemetry.exemplars import SECONDS_BUCKETS
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.mmap_metrics import Count, Observe, counting, observing
from sidecar.telemetry.names import OVERFLOW, LogEvent, MetricName
from sidecar.telemetry.sanitize import Children, LabelCap


class _Judged(NamedTuple):
    """Where one verdict of one guardrail is counted."""

    guardrail: Guardrail
    add: Count
    observe: Observe


class GuardrailMetrics:
    """One instance a process. The label's function bounds how many values it has."""

    def __init__(self, registry: CollectorRegistry, *, guardrail_label: LabelCap) -> None:
        self._guardrail_label: Final = guardrail_label
        # Members of an enumeration are hashed in Python: by their ids a look-up costs a third.
        self._judged: dict[tuple[str, int, int], _Judged] = {}
        self._verdicts = Children(
            Counter(
                MetricName.GUARDRAIL_VERDICTS,
                "Guardrail outcomes; in shadow mode the verdict is what enforce would have done.",
                ("guardrail", "type", "verdict", "action", "mode", "stage"),
                registry=registry,
            ),
            counting,
        )
        self._seconds = Children(
            Histogram(
                MetricName.GUARDRAIL_SECONDS,
                "Seconds one guardrail took.",
                ("guardrail",),
                buckets=SECONDS_BUCKETS,
                registry=registry,
            ),
            observing,
        )
        self._exempted = Children(
            Counter(
                MetricName.GUARDRAIL_EXEMPTIONS,
                "Requests that a guardrail did not check because of an exception in its policy.",
                ("guardrail",),
                registry=registry,
            ),
            counting,
        )
        self._unscanned = Children(
            Counter(
                MetricName.UNSCANNED,
                "Requests with content that no guardrail could read, by reason and action.",
                ("reason", "action"),
                registry=registry,
            ),
            counting,
        )

    def count(self, result: GuardrailResult) -> None:
        """Count what one guardrail said, and how long it took."""
        guardrail = result.guardrail
        known = self._judged.get((guardrail.name, id(result.verdict), id(result.stage)))
        if known is None or known.guardrail is not guardrail:
            known = self._judged_by(result)
        known.add()
        known.observe(result.seconds)

    def count_unjudged(self, report: ExchangeReport) -> None:
        """Count what no guardrail judged: for an exception's sake, or since none could read it."""
        for name in report.exempted:
            self._exempted(self._guardrail_label(name))()
        for reason in dict.fromkeys(report.unscanned):
            self._unscanned(reason.value, report.unscanned_action.value)()

    def _judged_by(self, result: GuardrailResult) -> _Judged:
        guardrail = result.guardrail
        name = self._guardrail_label(guardrail.name)
        judged = _Judged(
            guardrail,
            self._verdicts(
                name,
                sanitize.guardrail_type(guardrail.settings),
                result.verdict.value,
                guardrail.action.value,
                guardrail.mode.value,
                result.stage.value,
            ),
            self._seconds(name),
        )
        if name != OVERFLOW:  # what is beyond the cap would fill memory instead of labels
            self._judged[guardrail.name, id(result.verdict), id(result.stage)] = judged
        return judged


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
