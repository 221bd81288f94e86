from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from sidecar.telemetry.metrics import Metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry without metrics."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """The metrics of a worker."""
    return Metrics(registry)
