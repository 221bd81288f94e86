"""Labels of metrics: bounded in number, and found without being built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from prometheus_client.metrics import MetricWrapperBase

from sidecar.telemetry import sanitize
from sidecar.telemetry.names import OVERFLOW

MAX_LABEL_VALUES: Final = 100
"""Distinct guardrail, policy or model names a worker shows; the rest are `other`."""

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)
_Use = TypeVar("_Use")


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


class Children(Generic[_Metric, _Use]):
    """The label children of one metric: on the request's path a look-up, not a construction.

    What is found is the *use* of a child, worked out once, for example what counts in it.
    """

    def __init__(self, metric: _Metric, use: Callable[[_Metric], _Use]) -> None:
        self._metric = metric
        self._use = use
        self._found: dict[tuple[str, ...], _Use] = {}

    def __call__(self, *values: str) -> _Use:
        """Return the use of the child with these label values."""
        found = self._found.get(values)
        if found is None:
            found = self._found[values] = self._use(self._metric.labels(*values))
        return found


def itself(metric: _Metric) -> _Metric:
    """Use a child as it is."""
    return metric
