from __future__ import annotations

import pytest

from sidecar.domain.alerting import Severity


@pytest.mark.parametrize(
    ("severity", "least", "reaches"),
    [
        (Severity.INFO, Severity.WARNING, False),
        (Severity.WARNING, Severity.WARNING, True),
        (Severity.CRITICAL, Severity.WARNING, True),
        (Severity.WARNING, Severity.CRITICAL, False),
    ],
)
def test_a_route_takes_its_severity_and_those_above(
    severity: Severity, least: Severity, *, reaches: bool
) -> None:
    assert severity.reaches(least) is reaches
