"""Metrics of what guardrails said of an exchange, and of what none could read."""

from __future__ import annotations

from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram

from sidecar.domain.finding import GuardrailResult
from sidecar.domain.policy import Guardrail
from sidecar.telemetry import sanitize
from sidecar.telemetry.exchange_exemplars import SECONDS_BUCKETS
from sidecar.telemetry.labels import Children, LabelCap
from sidecar.telemetry.mapped_samples import Count, Observe, counting, observing
from sidecar.telemetry.names import OVERFLOW, MetricName
from sidecar.telemetry.report import ExchangeReport


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
