"""Labels of metrics: bounded in number, and found without being built."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from prometheus_client.metrics import MetricWrapperBase

from sidecar.telemetry import sanitize
from sidecar.telemetry.names import OVERFLOW

MAX_LABEL_VALUES: Final = 100
"""Distinct guardrail, policy or model names a worker shows; the rest are `other`."""

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


class LabelCap:
    """Admits the first *limit* distinct values and calls all later ones `other`."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._shown: dict[str, str] = {}

    def __call__(self, value: str) -> str:
        """Return the label value that stands for *value*."""
        shown = self._shown.get(value)
        if shown is not None:
            return shown
        if len(self._shown) >= self._limit:
            return OVERFLOW
        return self._shown.setdefault(value, sanitize.policy_text(value))


class Children(Generic[_Metric]):
    """The label children of one metric: on the request's path a look-up, not a construction."""

    def __init__(self, metric: _Metric) -> None:
        self._metric = metric
        self._found: dict[tuple[str, ...], _Metric] = {}

    def __call__(self, *values: str) -> _Metric:
        """Return the child with these label values."""
        child = self._found.get(values)
        if child is None:
            child = self._found[values] = self._metric.labels(*values)
        return child
