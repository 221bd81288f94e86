"""Metrics of usage and of the speed of answers, from Envoy's access log.

Names and buckets follow OpenTelemetry's GenAI conventions, in Prometheus's spelling.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from sidecar.domain.usage import NO_TOKENS, AnswerEnd, Estimate, ExchangeEnded, UsageRecord
from sidecar.telemetry import sanitize
from sidecar.telemetry.exemplars import BucketExemplars, ExemplarFile, TraceRef
from sidecar.telemetry.mmap_metrics import Observe, counting, observing, summing
from sidecar.telemetry.names import NONE, OVERFLOW, MetricName
from sidecar.telemetry.sanitize import LabelCap

TOKEN_BUCKETS: Final = tuple(float(4**power) for power in range(14))
DURATION_BUCKETS: Final = tuple(0.01 * 2**power for power in range(14))
FIRST_TOKEN_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
PER_TOKEN_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
TOKENS_PER_SECOND_BUCKETS: Final = (
    1, 2.5, 5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000,
)  # fmt: skip

LOST_REASONS: Final = (
    "damaged", "not_kept", "note", "rejected", "unreadable", "unreadable_log", "unsettled",
)  # fmt: skip

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)

_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_ERRORS: Final = 400
FREE: Final = Decimal(0)


class _Exemplars:
    """Exemplars of the times of answers."""

    def __init__(self, file: ExemplarFile) -> None:
        self._durations = BucketExemplars(
            file,
            MetricName.REQUEST_DURATION,
            buckets=DURATION_BUCKETS,
            labels=(*_GEN_AI, "error_type"),
        )
        self._first_token = BucketExemplars(
            file, MetricName.TIME_TO_FIRST_TOKEN, buckets=FIRST_TOKEN_BUCKETS, labels=_GEN_AI
        )

    def note(self, ended: ExchangeEnded, labels: tuple[str, ...]) -> None:
        if ended.trace_id is None:
            return
        began_at = ended.request.occurred_at.timestamp()
        trace = TraceRef(ended.trace_id, began_at + ended.latency_seconds)
        self._durations.note(ended.latency_seconds, trace, *labels, _error_type(ended))
        if ended.is_event_stream and ended.first_token_seconds is not None:
            self._first_token.note(ended.first_token_seconds, trace, *labels)


class _ByLabels(dict[tuple[str, ...], Observe], Generic[_Metric]):
    """Functions that observe, by label values: a look-up in C for each record.

    *more* are values of the labels behind these.
    """

    def __init__(
        self, metric: _Metric, observing: Callable[[_Metric], Observe], *more: str
    ) -> None:
        self._metric = metric
        self._observing = observing
        self._more = more

    def __missing__(self, values: tuple[str, ...]) -> Observe:
        found = self[values] = self._observing(self._metric.labels(*values, *self._more))
        return found


class UsageMetrics:
    """One instance a process."""

    def __init__(self, registry: CollectorRegistry, exemplars: ExemplarFile | None = None) -> None:
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        self._exemplars = None if exemplars is None else _Exemplars(exemplars)
        self._model_label = LabelCap()
        self._labels_of: dict[tuple[str | None, ...], tuple[str, ...]] = {}
        self._declare_answers(registry)
        self._stored = counter(
            MetricName.USAGE_RECORDS,
            "Usage records written to the database, by source of their tokens.",
            ("tokens",),
        )
        self._lost = counter(
            MetricName.USAGE_LOST,
            "Usage that could not be stored or delivered, by reason.",
            ("reason",),
        )
        for reason in LOST_REASONS:  # an alert on a rate needs the zero before the first loss
            self._lost.labels(reason)
        self._refused = counter(
            MetricName.USAGE_RECORDS_REFUSED,
            "Usage records that neither disk nor database accepted; they are tried again.",
        )
        self._duplicates = counter(
            MetricName.USAGE_DUPLICATES, "Usage records that were in the database already."
        )
        self._ended = counter(
            MetricName.USAGE_REQUESTS,
            "Requests whose end was accounted for, by source.",
            ("source",),
        )
        self._estimated = counter(
            MetricName.USAGE_ESTIMATED,
            "Requests whose worker could not read the counts of their answer, by reason.",
            ("reason",),
        )
        for estimate in Estimate:
            self._estimated.labels(estimate.value)
        self._ignored = counter(
            MetricName.ACCESS_LOG_IGNORED,
            "Entries of Envoy's access log of requests that their worker accounts for itself.",
        )
        unmatched = "Requests that ended before Envoy had received anything about them from Egret."
        self._unmatched = [
            counter(name, unmatched)
            for name in (MetricName.ACCESS_LOG_UNMATCHED, MetricName.ENDS_UNNAMED)
        ]
        self._orphaned = [
            counter(
                name, "Requests that ended before Envoy received the verdict; reservations return."
            )
            for name in (MetricName.USAGE_ORPHANED_VERDICTS, MetricName.VERDICTS_UNHEARD)
        ]
        self._spool_bytes = gauge(
            MetricName.USAGE_SPOOL_BYTES,
            "Bytes of usage on disk, over all live workers.",
            multiprocess_mode="livesum",
        )
        self._spool_age = gauge(
            MetricName.USAGE_SPOOL_OLDEST_SECONDS,
            "Age of the oldest usage that is not in the database; the highest of all workers.",
            multiprocess_mode="livemax",
        )

    def _declare_answers(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, registry=registry)
        counter = partial(Counter, registry=registry)
        tokens = histogram(
            MetricName.TOKEN_USAGE,
            "Tokens of one request as the provider counted them, by type: input or output.",
            (*_GEN_AI, "gen_ai_token_type"),
            buckets=TOKEN_BUCKETS,
        )
        self._input = _ByLabels(tokens, observing, "input")
        self._output = _ByLabels(tokens, observing, "output")
        self._durations = _ByLabels(
            histogram(
                MetricName.REQUEST_DURATION,
                "Seconds from the first byte of a request to the last of its answer.",
                (*_GEN_AI, "error_type"),
                buckets=DURATION_BUCKETS,
            ),
            observing,
        )
        self._first_token = _ByLabels(
            histogram(
                MetricName.TIME_TO_FIRST_TOKEN,
                "Seconds from the first byte of a request to the first of its streamed body.",
                _GEN_AI,
                buckets=FIRST_TOKEN_BUCKETS,
            ),
            observing,
        )
        self._per_token = _ByLabels(
            histogram(
                MetricName.TIME_PER_OUTPUT_TOKEN,
                "Seconds a token of a streamed answer after the first: mean over one answer.",
                _GEN_AI,
                buckets=PER_TOKEN_BUCKETS,
            ),
            observing,
        )
        self._speed = _ByLabels(
            histogram(
                MetricName.OUTPUT_TOKENS_PER_SECOND,
                "Tokens a second of a streamed answer after the first.",
                _GEN_AI,
                buckets=TOKENS_PER_SECOND_BUCKETS,
            ),
            observing,
        )
        self._cost = _ByLabels(
            counter(
                MetricName.COST_USD,
                "Cost of tokens in US dollars by the prices in the database, estimates included.",
                _GEN_AI,
            ),
            summing,
        )
        self._unpriced = counting(
            counter(MetricName.COST_UNKNOWN, "Requests whose model has no price.")
        )

    def exchange_ended(
        self, ended: ExchangeEnded, record: UsageRecord, usd: Decimal | None = FREE
    ) -> tuple[str, ...]:
        """Count the end of an exchange, and the cost of its tokens, None without a price.

        *record* is stored of it. Its tokens are observed if the provider stated them. Returns the
        labels for a cost that is known later.
        """
        request = ended.request
        # Only a model that a provider served is a label: a client could name thousands.
        status = ended.status if ended.answer_status is None else ended.answer_status
        is_served = 0 < status < _ERRORS and ended.end is not AnswerEnd.REFUSED
        named = (request.operation, request.provider, request.model if is_served else None)
        labels = self._labels_of.get(named)
        if labels is None:
            model = sanitize.model_name(named[2])
            label = OVERFLOW if model is None else self._model_label(model)
            labels = (request.operation or NONE, request.provider or NONE, label)
            if request.model == label:  # else there is no bound on them
                self._labels_of[named] = labels
        self._durations[*labels, _error_type(ended)](ended.latency_seconds)
        if self._exemplars is not None:
            self._exemplars.note(ended, labels)
        # Those of the record: a provider may state nonsense, or leave reasoning out.
        tokens = NO_TOKENS if record.is_estimated else record.tokens
        if tokens.input:
            self._input[labels](tokens.input)
        if tokens.output:
            self._output[labels](tokens.output)
        if ended.is_event_stream and ended.first_token_seconds is not None:
            self._first_token[labels](ended.first_token_seconds)
            # The first token is not counted: the time of the others begins with it.
            seconds, after = ended.output_seconds, tokens.output - 1
            if seconds and after > 0:
                self._per_token[labels](seconds / after)
                self._speed[labels](after / seconds)
        if usd is None:
            self._unpriced()
        elif usd:
            self._cost[labels](float(usd))
        return labels

    def cost_known(self, labels: tuple[str, ...], usd: Decimal | None) -> None:
        """Count the cost of an exchange that ended before prices were read."""
        if usd is None:
            self._unpriced()
        elif usd:
            self._cost[labels](float(usd))

    def stored(self, records: Sequence[UsageRecord], *, added: int) -> None:
        """Count a batch of which *added* records were new."""
        sources = Counts(
            "lost"
            if record.end is AnswerEnd.LOST
            else "estimated"
            if record.is_estimated
            else "reported"
            for record in records
        )
        for source, count in sources.items():
            self._stored.labels(source).inc(count)
        self._duplicates.inc(len(records) - added)

    def lost(self, reason: str, count: int = 1) -> None:
        """Count lost usage."""
        self._lost.labels(reason).inc(count)

    def refused(self, count: int) -> None:
        """Count records that are tried again, by Envoy at another worker."""
        self._refused.inc(count)

    def requests_ended(self, source: str, count: int) -> None:
        """Count requests whose end came by *source*."""
        self._ended.labels(source).inc(count)

    def answer_estimated(self, estimate: Estimate) -> None:
        """Count an answer that a worker saw and whose tokens are estimated."""
        self._estimated.labels(estimate.value).inc()

    def access_log_ignored(self, count: int) -> None:
        """Count entries of requests that their worker accounts for itself."""
        self._ignored.inc(count)

    def access_log_unmatched(self, count: int) -> None:
        """Count requests that ended before Envoy had received anything about them from Egret."""
        for counter in self._unmatched:
            counter.inc(count)

    def orphaned_verdict(self) -> None:
        """Count a request that ended before Envoy had received its verdict."""
        for counter in self._orphaned:
            counter.inc()

    def spool_holds(self, size: int, *, oldest_seconds: float) -> None:
        """Show the usage that waits on the disk."""
        self._spool_bytes.set(size)
        self._spool_age.set(oldest_seconds)


def _error_type(ended: ExchangeEnded) -> str:
    if ended.end is not AnswerEnd.COMPLETED:
        return str(ended.end.value)
    return NONE if ended.status < _ERRORS else str(ended.status)
