"""Computes rates and quantiles from two snapshots of metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sidecar.telemetry.names import MetricName

_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_OWN_TIERS: Final = frozenset({"l1", "negative"})
_HOUR_SECONDS: Final = 3600

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """All samples at one moment, in seconds of a monotonic clock."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]]


def parse_snapshot(text: str, *, at: float) -> MetricsSnapshot:
    """Return the samples of *text*, in Prometheus's classic format.

    Raises:
        ValueError: *text* is not a page of metrics.
    """
    return snapshot_of(text_string_to_metric_families(text), at=at)


def snapshot_of(families: Iterable[Metric], *, at: float) -> MetricsSnapshot:
    """Return the samples of *families*, without the way over text."""
    samples: dict[str, dict[Labels, float]] = {}
    for family in families:
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return MetricsSnapshot(at, samples)


@dataclass(frozen=True, slots=True)
class TrafficStats:
    """Traffic in a span of time; counts are a second, times are milliseconds."""

    seconds: float
    requests: float
    in_flight: int
    workers_running: int
    workers_wanted: int
    overhead_ms: Mapping[str, float | None]
    cache_hit_ratio: float | None
    cost_usd_an_hour: float
    outcomes: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    tiers: Mapping[str, float] = field(default_factory=dict)
    guardrails: Mapping[str, float] = field(default_factory=dict)
    providers: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    faults: Mapping[str, float] = field(default_factory=dict)


def traffic_stats(before: MetricsSnapshot, after: MetricsSnapshot) -> TrafficStats:
    """Return the traffic between two snapshots."""
    between = _Growth(before, after)
    outcomes = between.rates(f"{MetricName.EXCHANGES}_total", "outcome")
    tiers = between.rates(f"{MetricName.AUTHORIZATIONS}_total", "tier")
    tiers.pop("none", None)
    asked = sum(tiers.values())
    cost = between.rates(f"{MetricName.COST_USD}_total")
    return TrafficStats(
        seconds=after.at - before.at,
        requests=sum(outcomes.values()),
        in_flight=between.now(MetricName.IN_FLIGHT_EXCHANGES),
        workers_running=between.now(MetricName.WORKERS_RUNNING),
        workers_wanted=between.now(MetricName.WORKERS_WANTED),
        overhead_ms=between.quantiles_ms(MetricName.OVERHEAD_SECONDS),
        cache_hit_ratio=sum(tiers.get(one, 0.0) for one in _OWN_TIERS) / asked if asked else None,
        cost_usd_an_hour=sum(cost.values()) * _HOUR_SECONDS,
        outcomes=outcomes,
        errors=between.rates(f"{MetricName.EXCHANGES}_total", "error", but=frozenset({"none"})),
        tiers=tiers,
        guardrails=between.rates(
            f"{MetricName.GUARDRAIL_VERDICTS}_total",
            "guardrail",
            "verdict",
            but=frozenset({"pass"}),
        ),
        providers=between.provider_rates(),
        limits=between.rates(f"{MetricName.LIMIT_DECISIONS}_total", "decision", "counts"),
        faults=between.rates(f"{MetricName.EXCHANGE_FAULTS}_total", "kind"),
    )


class _Growth:
    """How far each sample grew from one snapshot to the next."""

    def __init__(self, before: MetricsSnapshot, after: MetricsSnapshot) -> None:
        self._before = before
        self._after = after
        self._seconds = max(after.at - before.at, 1e-9)

    def now(self, name: str) -> int:
        """Return a gauge's sum."""
        return int(sum(self._after.samples.get(name, {}).values()))

    def rates(self, name: str, *by: str, but: frozenset[str] = frozenset()) -> dict[str, float]:
        """Return rates that are not zero, by the values of some labels, the largest first."""
        found: defaultdict[str, float] = defaultdict(float)
        for labels, grown in self._growth(name):
            values = dict(labels)
            shown = [values[label] for label in by]
            if grown and not but.intersection(shown):
                found[" ".join(shown)] += grown / self._seconds
        return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))

    def provider_rates(self) -> dict[str, float]:
        """Return rates by provider and end, in words: `openai answered`, `openai status 429`."""
        rates = self.rates(
            f"{MetricName.REQUEST_DURATION}_count", "gen_ai_provider_name", "error_type"
        )
        shown: dict[str, float] = {}
        for name, rate in rates.items():
            provider, _, end = name.rpartition(" ")
            words = f"status {end}" if end.isdigit() else end.replace("_", " ")
            shown[f"{provider} {'answered' if end == 'none' else words}"] = rate
        return shown

    def quantiles_ms(self, name: str) -> dict[str, float | None]:
        """Return quantiles of a histogram, as Prometheus computes them; None without a sample."""
        buckets: defaultdict[float, float] = defaultdict(float)
        for labels, grown in self._growth(f"{name}_bucket"):
            buckets[float(dict(labels)["le"])] += grown
        ordered = sorted(buckets.items())
        return {name: _quantile(share, ordered) for name, share in _SHARES.items()}

    def _growth(self, name: str) -> Iterator[tuple[Labels, float]]:
        earlier = self._before.samples.get(name, {})
        for labels, value in self._after.samples.get(name, {}).items():
            before = earlier.get(labels, 0.0)
            # Less than before: a new supervisor began anew.
            yield labels, value - before if value >= before else value


def _quantile(share: float, cumulative: list[tuple[float, float]]) -> float | None:
    total = cumulative[-1][1] if cumulative else 0
    if not total:
        return None
    low = below = 0.0
    for bound, count in cumulative:
        if count >= share * total:
            if bound == float("inf"):
                return low * 1000
            within = (share * total - below) / (count - below)
            return (low + (bound - low) * within) * 1000
        low, below = bound, count
    return low * 1000
