"""Exemplars of the histograms of an exchange."""

from __future__ import annotations

from typing import Final

from sidecar.telemetry.exemplars import BucketExemplars, ExemplarFile, Moment
from sidecar.telemetry.labels import LabelCap
from sidecar.telemetry.names import MetricName
from sidecar.telemetry.report import ExchangeReport

SECONDS_BUCKETS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
)  # fmt: skip
"""From a quarter of a millisecond, which is about what an exchange without remote checks costs."""


class ExchangeExemplars:
    """One instance a process, as there is of the metrics that it belongs to."""

    def __init__(self, file: ExemplarFile) -> None:
        self._overhead = BucketExemplars(
            file, MetricName.OVERHEAD_SECONDS, buckets=SECONDS_BUCKETS
        )
        self._phases = BucketExemplars(
            file, MetricName.PHASE_SECONDS, buckets=SECONDS_BUCKETS, labels=("phase",)
        )
        self._guardrails = BucketExemplars(
            file, MetricName.GUARDRAIL_SECONDS, buckets=SECONDS_BUCKETS, labels=("guardrail",)
        )

    def note(self, report: ExchangeReport, trace_id: int, *, guardrail_label: LabelCap) -> None:
        """Keep the trace of an exchange for each bucket that it fell into."""
        timings = report.timings
        moment = Moment(trace_id, timings.wall_ns / 1e9 + timings.seconds)
        self._overhead.note(timings.overhead_seconds, moment)
        for phase, step in (
            ("authorize", timings.authorize),
            ("read", timings.read),
            ("guardrails", timings.guardrails),
        ):
            if step is not None:
                self._phases.note(step.seconds, moment, phase)
        for result in report.results:
            name = guardrail_label(result.guardrail.name)
            self._guardrails.note(result.seconds, moment, name)
