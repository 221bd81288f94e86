"""Prometheus metrics of one worker, written to the files of a multiprocess directory.

prometheus-client chooses its storage when it is imported: `PROMETHEUS_MULTIPROC_DIR` must be in a
worker's environment before it starts. Without it values stay in the process, as in unit tests.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import GuardrailResult, Verdict
from sidecar.domain.policy import Guardrail, Policy, Stage
from sidecar.settings import Engine
from sidecar.telemetry import sanitize
from sidecar.telemetry.exchange_exemplars import SECONDS_BUCKETS, ExchangeExemplars
from sidecar.telemetry.exemplars import ExemplarFile
from sidecar.telemetry.key_metrics import KeyMetrics
from sidecar.telemetry.labels import Children, LabelCap
from sidecar.telemetry.limit_metrics import LimitMetrics
from sidecar.telemetry.names import NONE, OVERFLOW, MetricName
from sidecar.telemetry.process_metrics import ProcessMetrics
from sidecar.telemetry.remote_metrics import RemoteMetrics
from sidecar.telemetry.report import ExchangeReport, FaultKind, Step
from sidecar.telemetry.span_metrics import SpanMetrics
from sidecar.telemetry.usage_metrics import UsageMetrics

BODY_BUCKETS: Final = tuple(float(1 << power) for power in range(8, 26, 2))
"""256 bytes to 16 MiB in steps of four."""

_AUTHORIZATION_ERRORS: Final = frozenset(
    {
        ErrorKind.MISSING_API_KEY,
        ErrorKind.INVALID_API_KEY,
        ErrorKind.CONFLICTING_CREDENTIALS,
        ErrorKind.EXPIRED_API_KEY,
        ErrorKind.REVOKED_API_KEY,
        ErrorKind.DISABLED_API_KEY,
        ErrorKind.MODEL_NOT_ALLOWED,
        ErrorKind.AUTHORIZATION_UNAVAILABLE,
    }
)


class _Judged(NamedTuple):
    """Where one verdict of one guardrail is counted."""

    guardrail: Guardrail
    verdicts: Counter
    seconds: Histogram


class Metrics:
    """All metrics of a worker. One instance a process: two would write to the same samples."""

    def __init__(self, registry: CollectorRegistry, exemplars: ExemplarFile | None = None) -> None:
        self._exemplars = None if exemplars is None else ExchangeExemplars(exemplars)
        self._guardrail_label = LabelCap()
        self._policy_label = LabelCap()
        self._judged: dict[tuple[str, Verdict, Stage], _Judged] = {}
        self._declare_exchange(registry)
        self._declare_checks(registry)
        self._declare_process(registry)
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
                "Exchanges that ended, by outcome, operation and kind of error.",
                ("outcome", "operation", "error"),
                registry=registry,
            )
        )
        self._overhead = Histogram(
            MetricName.OVERHEAD_SECONDS,
            "Egret's own share of an exchange: without the client's upload and the provider.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._phases = Children(
            Histogram(
                MetricName.PHASE_SECONDS,
                "Seconds spent in one phase of judging: authorize, read or guardrails.",
                ("phase",),
                buckets=SECONDS_BUCKETS,
                registry=registry,
            )
        )
        self._in_flight = Gauge(
            MetricName.IN_FLIGHT_EXCHANGES,
            "Exchanges being judged now, over all live workers.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._body_bytes = Histogram(
            MetricName.BODY_BYTES,
            "Bytes of the request bodies that were read.",
            buckets=BODY_BUCKETS,
            registry=registry,
        )

    def _declare_checks(self, registry: CollectorRegistry) -> None:
        self._authorizations = Children(
            Counter(
                MetricName.AUTHORIZATIONS,
                "Judged keys, by outcome and by the cache tier that answered.",
                ("outcome", "tier"),
                registry=registry,
            )
        )
        self._verdicts = Children(
            Counter(
                MetricName.GUARDRAIL_VERDICTS,
                "Guardrail outcomes; in shadow mode the verdict is what enforce would have done.",
                ("guardrail", "type", "verdict", "action", "mode", "stage"),
                registry=registry,
            )
        )
        self._guardrail_seconds = Children(
            Histogram(
                MetricName.GUARDRAIL_SECONDS,
                "Seconds one guardrail took.",
                ("guardrail",),
                buckets=SECONDS_BUCKETS,
                registry=registry,
            )
        )
        self._exempted = Children(
            Counter(
                MetricName.GUARDRAIL_EXEMPTIONS,
                "Exchanges that a guardrail did not judge because of an exception in its policy.",
                ("guardrail",),
                registry=registry,
            )
        )
        self._unscanned = Children(
            Counter(
                MetricName.UNSCANNED,
                "Exchanges with content that no guardrail could read, by reason and action.",
                ("reason", "action"),
                registry=registry,
            )
        )

    def _declare_process(self, registry: CollectorRegistry) -> None:
        self._faults = Children(
            Counter(
                MetricName.EXCHANGE_FAULTS,
                "Protocol violations, exceptions, missed deadlines, lost telemetry.",
                ("kind",),
                registry=registry,
            )
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
            )
        )
        self._policies_read = Gauge(
            MetricName.POLICIES_READ,
            "When policies were last read from the database; the earliest of all live workers.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._policies_loaded = Gauge(
            MetricName.POLICIES_LOADED,
            "Since when the policies in force are; the earliest of all live workers.",
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
            "Always 1; the labels say what runs.",
            ("version", "python", "engine"),
            multiprocess_mode="livemax",
            registry=registry,
        )

    def build(self, version: str, *, engine: Engine) -> None:
        """Show which version of Egret and of Python this is, and which engine serves."""
        self._build.labels(version, platform.python_version(), engine.value).set(1)

    def exchange_began(self) -> None:
        """Count an exchange as in flight."""
        self._in_flight.inc()

    def exchange_ended(self) -> None:
        """Take an exchange out of those in flight."""
        self._in_flight.dec()

    def fault(self, kind: FaultKind) -> None:
        """Count a fault."""
        self._faults(kind.value).inc()

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
        error = NONE if report.error is None else report.error.value
        operation = sanitize.operation_name(report.route)
        self._exchanges(report.outcome.value, operation, error).inc()
        timings = report.timings
        self._overhead.observe(timings.overhead_seconds)
        self._observe_phase("authorize", timings.authorize)
        self._observe_phase("read", timings.read)
        self._observe_phase("guardrails", timings.guardrails)
        if report.body_bytes:
            self._body_bytes.observe(report.body_bytes)
        self._count_authorization(report)
        for result in report.results:
            self._count_verdict(result)
            self.remote.count(result)
        for name in report.exempted:
            self._exempted(self._guardrail_label(name)).inc()
        for reason in dict.fromkeys(report.unscanned):
            self._unscanned(reason.value, report.unscanned_action.value).inc()

    def traced(self, report: ExchangeReport, trace_id: int) -> None:
        """Have the buckets that an exchange fell into lead to its trace."""
        if self._exemplars is not None:
            self._exemplars.note(report, trace_id, guardrail_label=self._guardrail_label)

    def _observe_phase(self, phase: str, step: Step | None) -> None:
        if step is not None:
            self._phases(phase).observe(step.seconds)

    def _count_authorization(self, report: ExchangeReport) -> None:
        if report.error in _AUTHORIZATION_ERRORS:
            outcome = report.error.value
        elif report.principal is not None:
            outcome = "authorized"
        else:
            return
        self._authorizations(outcome, report.cache_tier.value).inc()

    def _count_verdict(self, result: GuardrailResult) -> None:
        guardrail = result.guardrail
        known = self._judged.get((guardrail.name, result.verdict, result.stage))
        if known is None or known.guardrail is not guardrail:
            known = self._judged_by(result)
        known.verdicts.inc()
        known.seconds.observe(result.seconds)

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
            self._guardrail_seconds(name),
        )
        if name != OVERFLOW:  # what is beyond the cap would fill memory instead of labels
            self._judged[guardrail.name, result.verdict, result.stage] = judged
        return judged
