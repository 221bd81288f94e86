"""Prometheus metrics of one worker, written to the files of a multiprocess directory.

prometheus-client chooses its storage when it is imported: `PROMETHEUS_MULTIPROC_DIR` must be in a
worker's environment before it starts. Without it values stay in the process, as in unit tests.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.domain.finding import LOCAL_VERDICTS, GuardrailResult, Verdict
from sidecar.domain.policy import Guardrail, Policy, name_beside
from sidecar.domain.report import ExchangeReport, FaultKind
from sidecar.domain.subject import Route
from sidecar.telemetry import sanitize
from sidecar.telemetry.exemplars import SECONDS_BUCKETS, ExchangeExemplars, ExemplarFile
from sidecar.telemetry.finding_metrics import FindingMetrics
from sidecar.telemetry.key_metrics import KeyMetrics, LimitMetrics
from sidecar.telemetry.mmap_metrics import (
    Observe,
    ObserveEach,
    counting,
    observing,
    observing_each,
    rising_and_falling,
)
from sidecar.telemetry.names import NONE, OVERFLOW, MetricName
from sidecar.telemetry.process_metrics import ProcessMetrics
from sidecar.telemetry.remote_metrics import RemoteMetrics
from sidecar.telemetry.sanitize import LabelCap
from sidecar.telemetry.tail_sampling import SpanMetrics
from sidecar.telemetry.usage_metrics import UsageMetrics

_CHECKED: Final = frozenset({Verdict.PASS, *LOCAL_VERDICTS.values()})
"""Verdicts of a check that took place and did not fail."""

BODY_BUCKETS: Final = tuple(float(1 << power) for power in range(8, 26, 2))
"""256 bytes to 16 MiB in steps of four."""


class Metrics:
    """All metrics of a worker. One instance a process: two would write to the same samples.

    `record` runs for every request: it finds the samples of an outcome by the ids of its parts,
    since members of an enumeration are hashed in Python, and calls one function for all of them.
    """

    def __init__(self, registry: CollectorRegistry, exemplars: ExemplarFile | None = None) -> None:
        counter = partial(Counter, registry=registry)
        min_gauge = partial(Gauge, multiprocess_mode="livemin", registry=registry)
        self._exemplars = None if exemplars is None else ExchangeExemplars(exemplars)
        self._guardrail_label = LabelCap()
        self._policy_label = LabelCap()
        self._versions: dict[str, int] = {}
        self._ends: dict[tuple[int | bool, ...], ObserveEach] = {}
        self._verdicts: dict[tuple[str, int, int], tuple[Guardrail, Observe]] = {}
        self._observed: dict[tuple[str, ...], Observe] = {}
        self._declare_exchange(registry)
        self._declare_guardrails(registry)
        faults = counter(
            MetricName.EXCHANGE_FAULTS,
            "Protocol violations, exceptions, missed deadlines, lost telemetry.",
            ("kind",),
        )
        # All at once: an alert on a rate needs the zero before the first fault.
        self._faults = {kind.value: counting(faults.labels(kind.value)) for kind in FaultKind}
        self._policy_version = min_gauge(
            MetricName.POLICY_VERSION,
            "Version of a policy; the lowest that any live worker still applies.",
            ("policy",),
        )
        self._policies_read = min_gauge(
            MetricName.POLICIES_READ,
            "When policies were last read from the database; the earliest of all live workers.",
        )
        self._policies_loaded = min_gauge(
            MetricName.POLICIES_LOADED,
            "When the policies in force were loaded; the earliest of all live workers.",
        )
        self._policy_reload_failures = counter(
            MetricName.POLICY_RELOAD_FAILURES,
            "Policies that could not be loaded; the last good one stayed in place.",
        )
        self._build = Gauge(
            MetricName.BUILD,
            "Always 1; the labels describe the running program.",
            ("version", "python", "engine"),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.findings = FindingMetrics(registry, guardrail_label=self._guardrail_label)
        self.keys = KeyMetrics(registry)
        self.remote = RemoteMetrics(registry, guardrail_label=self._guardrail_label)
        self.usage = UsageMetrics(registry, exemplars)
        self.limits = LimitMetrics(registry)
        self.spans = SpanMetrics(registry)
        self.process = ProcessMetrics(registry)

    def _declare_exchange(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self._exchanges = counter(
            MetricName.EXCHANGES,
            "Finished requests, by outcome, operation and kind of error.",
            ("outcome", "operation", "error"),
        )
        overhead = histogram(
            MetricName.OVERHEAD_SECONDS,
            "Egret's own share of a request: without the client's upload and the provider.",
            buckets=SECONDS_BUCKETS,
        )
        phases = histogram(
            MetricName.PHASE_SECONDS,
            "Seconds spent in one phase of a request: authorize, read or guardrails.",
            ("phase",),
            buckets=SECONDS_BUCKETS,
        )
        self.exchange_began, self.exchange_ended = rising_and_falling(
            Gauge(
                MetricName.IN_FLIGHT_EXCHANGES,
                "Requests being checked now, over all live workers.",
                multiprocess_mode="livesum",
                registry=registry,
            )
        )
        body = histogram(
            MetricName.BODY_BYTES,
            "Bytes of the request bodies that were read.",
            buckets=BODY_BUCKETS,
        )
        self._of_each_exchange = (
            overhead,
            *(phases.labels(phase) for phase in ("authorize", "read", "guardrails")),
            body,
        )
        self._authorizations = counter(
            MetricName.AUTHORIZATIONS,
            "Checked keys, by outcome and by the cache tier that answered.",
            ("outcome", "tier"),
        )

    def _declare_guardrails(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        self._guardrail_verdicts = counter(
            MetricName.GUARDRAIL_VERDICTS,
            "Guardrail outcomes; in shadow mode the verdict that enforce would have had.",
            ("guardrail", "type", "verdict", "action", "mode", "stage"),
        )
        self._guardrail_seconds = Histogram(
            MetricName.GUARDRAIL_SECONDS,
            "Seconds one guardrail took.",
            ("guardrail",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._exempted = counter(
            MetricName.GUARDRAIL_EXEMPTIONS,
            "Requests that a guardrail did not check because of an exception in its policy.",
            ("guardrail",),
        )
        self._unscanned = counter(
            MetricName.UNSCANNED,
            "Requests with content that no guardrail could read, by reason and action.",
            ("reason", "action"),
        )
        self._incomplete_cost = counter(
            MetricName.COST_INCOMPLETE,
            "Requests that offer a tool which the provider bills beside tokens.",
            ("tool",),
        )

    def build(self, version: str) -> None:
        """Show which version of Egret and of Python this is."""
        # Queries from before there was one server read the label `engine`.
        self._build.labels(version, platform.python_version(), "http2").set(1)

    def fault(self, kind: FaultKind) -> None:
        """Count a fault."""
        self._faults[kind.value]()

    def policies_loaded(self, policies: Collection[Policy]) -> None:
        """Show the versions of the policies that this worker applies from now on."""
        names = ((one.name, policy.name) for policy in policies for one in policy.guardrails)
        self.remote.guardrails_are(name for own in names for name in (own[0], name_beside(*own)))
        versions = {policy.name: policy.version for policy in policies}
        for name, version in versions.items():  # of thousands one has changed, while requests wait
            if self._versions.get(name) != version:
                self._policy_version.labels(self._policy_label(name)).set(version)
        self._versions = versions
        self._policies_loaded.set_to_current_time()

    def policies_read(self) -> None:
        """Show that the policies in force are those of the database."""
        self._policies_read.set_to_current_time()

    def policy_reload_failed(self) -> None:
        """Count a policy that could not be loaded."""
        self._policy_reload_failures.inc()

    def record(self, report: ExchangeReport) -> None:
        """Count the end of an exchange, its times, and the verdict of each guardrail."""
        route = report.route
        authorize, read, guardrails = report.authorize, report.read, report.guardrails
        end = (
            id(report.outcome),
            id(report.error),
            id(report.cache_tier),
            report.principal is None,
            id(route.operation) if isinstance(route, Route) else route is None,
        )
        observe_each = self._ends.get(end)
        if observe_each is None:
            observe_each = self._ends[end] = self._end_of(report)
        observe_each(
            (
                report.overhead_seconds,
                None if authorize is None else authorize[1],
                None if read is None else read[1],
                None if guardrails is None else guardrails[1],
                report.body_bytes or None,
            )
        )
        pass_seconds = 0.0 if guardrails is None else guardrails[1]
        for result in report.results:
            verdict = (result.guardrail.name, id(result.verdict), id(result.stage))
            known = self._verdicts.get(verdict)
            # After a reload of policies another guardrail may have the same name.
            if known is None or known[0] is not result.guardrail:
                known = self._verdict_of(result, verdict)
            # As `report.step_of`, without a call for each.
            known[1](pass_seconds if result.seconds is None else result.seconds)
            if result.events or result.failure is not None:
                self.remote.count(result)
        if report.findings:
            self.findings.count(report.findings, at=report.started_at)
        if report.exempted or report.unscanned or report.billed_tools:
            for name in report.exempted:
                self._exempted.labels(self._guardrail_label(name)).inc()
            action = report.unscanned_action.value
            for reason in dict.fromkeys(report.unscanned):
                self._unscanned.labels(reason.value, action).inc()
            for tool in report.billed_tools if report.error is None else ():
                self._incomplete_cost.labels(tool).inc()

    def traced(self, report: ExchangeReport, trace_id: int) -> None:
        """Have the buckets that an exchange fell into lead to its trace."""
        if self._exemplars is not None:
            self._exemplars.note(report, trace_id, guardrail_label=self._guardrail_label)

    def _end_of(self, report: ExchangeReport) -> ObserveEach:
        """Return a function that counts the exchange and its key, and observes its times."""
        error = report.error
        counters = [
            self._exchanges.labels(
                report.outcome.value,
                sanitize.operation_name(report.route),
                NONE if error is None else error.value,
            )
        ]
        if error is not None and error.spec.is_authorization:
            counters.append(self._authorizations.labels(error.value, report.cache_tier.value))
        elif report.principal is not None:
            counters.append(self._authorizations.labels("authorized", report.cache_tier.value))
        return observing_each(self._of_each_exchange, *counters)

    def _verdict_of(
        self, result: GuardrailResult, verdict: tuple[str, int, int]
    ) -> tuple[Guardrail, Observe]:
        """Return a guardrail and a function that counts its verdict and observes its seconds."""
        guardrail = result.guardrail
        name = self._guardrail_label(guardrail.name)
        labels = (
            name,
            guardrail.settings.guardrail_type,
            result.verdict.value,
            guardrail.action.value,
            guardrail.mode.value,
            result.stage.value,
        )
        # The policies of many teams have guardrails of one name in turn, and mostly alike.
        observe = self._observed.get(labels)
        if observe is None:
            observe = self._observed[labels] = observing(
                self._guardrail_seconds.labels(name), self._guardrail_verdicts.labels(*labels)
            )
        if guardrail.warn_on_volume is not None and result.verdict in _CHECKED:
            observe = self.findings.counting_checks(guardrail, observe)
        if name != OVERFLOW:  # names beyond the cap would fill memory in place of labels
            self._verdicts[verdict] = guardrail, observe
        return guardrail, observe
