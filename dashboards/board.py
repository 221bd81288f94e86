"""What a dashboard is made of: values that become Grafana's JSON, queries of a test, pictures."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sidecar.telemetry.names import WITH_EXEMPLARS

RATE: Final = "[$__rate_interval]"
"""Grafana's own: at least four scrapes, so that a rate has something to go by."""

EGRET: Final = 'instance=~"$instance"'
ENVOY: Final = 'instance=~"$envoy"'

_VARIABLE: Final = re.compile(r"\$\w+")


class Unit(enum.Enum):
    """How a value reads; the value is Grafana's name."""

    NUMBER = "short"
    REQUESTS = "reqps"
    SECONDS = "s"
    BYTES = "bytes"
    SHARE = "percentunit"
    DOLLARS = "currencyUSD"


class Kind(enum.Enum):
    """How a panel shows its queries."""

    LINES = "lines"
    STACKED = "stacked"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression; a legend may name labels in double braces."""

    expression: str
    legend: str = ""

    @property
    def leads_to_traces(self) -> bool:
        """Whether there are exemplars to be shown as dots above its lines."""
        return any(f"{name}_bucket" in self.expression for name in WITH_EXEMPLARS)

    def with_everything(self, window: str, *, span: str | None = None) -> str:
        """Return it as Grafana asks it: all variables at "All", this rate interval, this range."""
        fixed = self.expression.replace("$__rate_interval", window)
        fixed = fixed.replace("$__range", span or window)
        return _VARIABLE.sub(".*", fixed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture and what it says to somebody who sees it for the first time."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.NUMBER
    kind: Kind = Kind.LINES
    width: int = 8
    """Of 24 columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard; its values are those of a label."""

    name: str
    label: str
    query: str


INSTANCE: Final = Variable("instance", "Egret", "label_values(egret_workers_wanted, instance)")
ENVOYS: Final = Variable("envoy", "Envoy", "label_values(envoy_server_live, instance)")


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; `name` is that of its file and of its picture."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = (INSTANCE,)

    @property
    def panels(self) -> Iterator[Panel]:
        """Every panel, row by row."""
        for row in self.rows:
            yield from row.panels


def rate(metric: str, by: str = "", where: str = EGRET) -> str:
    """Return the rate of a counter, summed by some labels."""
    return f"{_sum(by)}(rate({metric}{{{where}}}{RATE}))"


def quantile(share: float, metric: str, by: str = "", where: str = EGRET) -> str:
    """Return a quantile of a histogram, by some labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)})"


def quantiles(metric: str, where: str = EGRET) -> tuple[Query, ...]:
    """Return the three that say most."""
    shares = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    return tuple(Query(quantile(share, metric, where=where), name) for share, name in shares)


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"
