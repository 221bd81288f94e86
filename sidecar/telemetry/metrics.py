"""Prometheus metrics of one worker, written to the files of a multiprocess directory.

prometheus-client chooses its storage when it is imported: `PROMETHEUS_MULTIPROC_DIR` must be in a
worker's environment before it starts. Without it values stay in the process, as in unit tests.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.domain.policy import Policy
from sidecar.domain.report import ExchangeReport, FaultKind, Timings
from sidecar.domain.subject import Route
from sidecar.settings.serving import Engine
from sidecar.telemetry import sanitize
from sidecar.telemetry.exemplars import SECONDS_BUCKETS, ExchangeExemplars, ExemplarFile
from sidecar.telemetry.guardrail_metrics import GuardrailMetrics, RemoteMetrics
from sidecar.telemetry.key_metrics import KeyMetrics, LimitMetrics
from sidecar.telemetry.mmap_metrics import Count, counting, observing, rising_and_falling
from sidecar.telemetry.names import NONE, MetricName
from sidecar.telemetry.process_metrics import ProcessMetrics
from sidecar.telemetry.sanitize import Children, LabelCap, itself
from sidecar.telemetry.tail_sampling import SpanMetrics
from sidecar.telemetry.usage_metrics import UsageMetrics

BODY_BUCKETS: Final = tuple(float(1 << power) for power in range(8, 26, 2))
"""256 bytes to 16 MiB in steps of four."""


class _Kind(NamedTuple):
    """Where exchanges are counted that have all labels in common."""

    add: Count
    add_authorization: Count | None


class Metrics:
    """All metrics of a worker. One instance a process: two would write to the same samples."""

    def __init__(self, registry: CollectorRegistry, exemplars: ExemplarFile | None = None) -> None:
        self._exemplars = None if exemplars is None else ExchangeExemplars(exemplars)
        self._guardrail_label = LabelCap()
        self._policy_label = LabelCap()
        # By ids: members of an enumeration are hashed in Python.
        self._kinds: dict[tuple[int | bool, ...], _Kind] = {}
        self._declare_exchange(registry)
        self._declare_process(registry)
        self._guardrails = GuardrailMetrics(registry, guardrail_label=self._guardrail_label)
        self.keys = KeyMetrics(registry)
        self.remote = RemoteMetrics(
            registry, guardrail_label=self._guardrail_label, error_label=LabelCap()
        )
        self.usage = UsageMetrics(registry, exemplars)
        self.limits = LimitMetrics(registry)
        self.spans = SpanMetrics(registry)
        self.process = ProcessMetrics(registry)

    def _declare_exchange(self, registry: CollectorRegistry) -> None:
        self._exchanges = Children(
            Counter(
                MetricName.EXCHANGES,
                "Finished requests, by outcome, operation and kind of error.",
                ("outcome", "operation", "error"),
                registry=registry,
            ),
            counting,
        )
        self._observe_overhead = observing(
            Histogram(
                MetricName.OVERHEAD_SECONDS,
                "Egret's own share of a request: without the client's upload and the provider.",
                buckets=SECONDS_BUCKETS,
                registry=registry,
            )
        )
        self._phases = Children(
            Histogram(
                MetricName.PHASE_SECONDS,
                "Seconds spent in one phase of a request: authorize, read or guardrails.",
                ("phase",),
                buckets=SECONDS_BUCKETS,
                registry=registry,
            ),
            observing,
        )
        self._one_more, self._one_less = rising_and_falling(
            Gauge(
                MetricName.IN_FLIGHT_EXCHANGES,
                "Requests being checked now, over all live workers.",
                multiprocess_mode="livesum",
                registry=registry,
            )
        )
        self._observe_body = observing(
            Histogram(
                MetricName.BODY_BYTES,
                "Bytes of the request bodies that were read.",
                buckets=BODY_BUCKETS,
                registry=registry,
            )
        )
        self._authorizations = Children(
            Counter(
                MetricName.AUTHORIZATIONS,
                "Checked keys, by outcome and by the cache tier that answered.",
                ("outcome", "tier"),
                registry=registry,
            ),
            counting,
        )

    def _declare_process(self, registry: CollectorRegistry) -> None:
        self._faults = Children(
            Counter(
                MetricName.EXCHANGE_FAULTS,
                "Protocol violations, exceptions, missed deadlines, lost telemetry.",
                ("kind",),
                registry=registry,
            ),
            counting,
        )
        for kind in FaultKind:  # an alert on a rate needs the zero before the first fault
            self._faults(kind.value)
        self._policy_version = Children(
            Gauge(
                MetricName.POLICY_VERSION,
                "Version of a policy; the lowest that any live worker still applies.",
                ("policy",),
                multiprocess_mode="livemin",
                registry=registry,
            ),
            itself,
        )
        self._policies_read = Gauge(
            MetricName.POLICIES_READ,
            "When policies were last read from the database; the earliest of all live workers.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._policies_loaded = Gauge(
            MetricName.POLICIES_LOADED,
            "When the policies in force were loaded; the earliest of all live workers.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._policy_reload_failures = Counter(
            MetricName.POLICY_RELOAD_FAILURES,
            "Policies that could not be loaded; the last good one stayed in place.",
            registry=registry,
        )
        self._build = Gauge(
            MetricName.BUILD,
            "Always 1; the labels describe the running program.",
            ("version", "python", "engine"),
            multiprocess_mode="livemax",
            registry=registry,
        )

    def build(self, version: str, *, engine: Engine) -> None:
        """Show which version of Egret and of Python this is, and which engine serves."""
        self._build.labels(version, platform.python_version(), engine.value).set(1)

    def exchange_began(self) -> None:
        """Count an exchange as in flight."""
        self._one_more()

    def exchange_ended(self) -> None:
        """Take an exchange out of those in flight."""
        self._one_less()

    def fault(self, kind: FaultKind) -> None:
        """Count a fault."""
        self._faults(kind.value)()

    def policies_loaded(self, policies: Iterable[Policy]) -> None:
        """Show the versions of the policies that this worker applies from now on."""
        for policy in policies:
            self._policy_version(self._policy_label(policy.name)).set(policy.version)
        self._policies_loaded.set_to_current_time()

    def policies_read(self) -> None:
        """Show that what is in force is what the database holds."""
        self._policies_read.set_to_current_time()

    def policy_reload_failed(self) -> None:
        """Count a policy that could not be loaded."""
        self._policy_reload_failures.inc()

    def record(self, report: ExchangeReport) -> None:
        """Count the end of an exchange and all that took place in it."""
        kind = self._kind(report)
        kind.add()
        if kind.add_authorization is not None:
            kind.add_authorization()
        self._observe_times(report.timings)
        if report.body_bytes:
            self._observe_body(report.body_bytes)
        for result in report.results:
            self._guardrails.count(result)
            if result.events or result.error_type is not None:
                self.remote.count(result)
        if report.exempted or report.unscanned:
            self._guardrails.count_unjudged(report)

    def traced(self, report: ExchangeReport, trace_id: int) -> None:
        """Have the buckets that an exchange fell into lead to its trace."""
        if self._exemplars is not None:
            self._exemplars.note(report, trace_id, guardrail_label=self._guardrail_label)

    def _observe_times(self, timings: Timings) -> None:
        self._observe_overhead(timings.overhead_seconds)
        if timings.authorize is not None:
            self._phases("authorize")(timings.authorize.seconds)
        if timings.read is not None:
            self._phases("read")(timings.read.seconds)
        if timings.guardrails is not None:
            self._phases("guardrails")(timings.guardrails.seconds)

    def _kind(self, report: ExchangeReport) -> _Kind:
        route = report.route
        key = (
            id(report.outcome),
            id(report.error),
            id(report.cache_tier),
            report.principal is None,
            id(route.operation) if isinstance(route, Route) else route is None,
        )
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(
                self._exchanges(
                    report.outcome.value,
                    sanitize.operation_name(route),
                    NONE if report.error is None else report.error.value,
                ),
                self._authorization(report),
            )
        return kind

    def _authorization(self, report: ExchangeReport) -> Count | None:
        if report.error is not None and report.error.spec.is_authorization:
            outcome = report.error.value
        elif report.principal is not None:
            outcome = "authorized"
        else:
            return None
        return self._authorizations(outcome, report.cache_tier.value)
