"""What docs/metrics.md says of each metric is what the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from sidecar.telemetry.admin_metrics import (
    AdminMetrics,
    attachment_gauges,
    installation_gauges,
)
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.names import MetricName
from sidecar.telemetry.process_metrics import SupervisorMetrics

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW: Final = re.compile(r"^\| `((?:egret|gen_ai)_\w+)` \| (\w+) \|(.*?)\| (.+) \|$", re.MULTILINE)


class Told(NamedTuple):
    """What is told of a metric."""

    kind: str
    labels: tuple[str, ...]


def _of_code() -> dict[str, Told]:
    registry = CollectorRegistry()
    Metrics(registry)
    SupervisorMetrics(registry, wanted=1)
    AdminMetrics(registry)
    attachment_gauges(registry)
    installation_gauges(registry)
    return {
        f"{metric._name}_total" if metric._type == "counter" else str(metric._name): Told(
            str(metric._type), metric._labelnames
        )
        for metric in registry._collector_to_names
        if isinstance(metric, MetricWrapperBase)
    }


def test_the_page_has_each_metric_with_its_type_and_labels() -> None:
    """None is missing, none is left over, and each says what it means."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    told = {
        name: Told(kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows
    }

    assert told == _of_code()
    assert len(rows) == len(told)
    names = {value for name, value in vars(MetricName).items() if name.isupper()}
    assert {name.removesuffix("_total") for name in told} == names
