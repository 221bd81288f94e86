"""What is shown of servers that are let alone."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.sanitize import MAX_LABEL_VALUES
from tests.support.guardrails import policy
from tests.support.log_lines import LogLines


def state_of(registry: CollectorRegistry, guardrail: str, scope: str = "all") -> float | None:
    labels = {"guardrail": guardrail, "scope": scope}
    return registry.get_sample_value("egret_remote_breaker_state", labels)


def test_a_breaker_is_shown_as_it_is_and_logged_when_it_opens_and_closes(
    log_lines: LogLines,
) -> None:
    """Once a change, not once a check."""
    registry = CollectorRegistry()
    remote = Metrics(registry).remote
    shown = []
    for state in (0, 0, 2, 2, 1, 0, 0):
        remote.breaker_is("dlp", "all", state)
        shown.append(state_of(registry, "dlp"))
    assert shown == [0, 0, 2, 2, 1, 0, 0]
    dlp = {"guardrail": "dlp", "scope": "all"}
    assert log_lines.read() == [
        {"level": "warning", "event": "guardrails.breaker_opened", **dlp},
        {"level": "info", "event": "guardrails.breaker_closed", **dlp},
    ]


def test_a_breaker_that_is_open_for_one_organization_is_not_shown_as_open_for_all(
    log_lines: LogLines,
) -> None:
    """The organization has no label of its own: there may be many."""
    registry = CollectorRegistry()
    remote = Metrics(registry).remote
    remote.breaker_is("dlp", "all", 0)
    remote.breaker_is("dlp", "organization", 2)
    assert state_of(registry, "dlp") == 0
    assert state_of(registry, "dlp", "organization") == 2
    [line] = log_lines.read()
    assert (line["event"], line["scope"]) == ("guardrails.breaker_opened", "organization")


def test_names_beyond_the_cap_are_not_shown() -> None:
    """Policies may name guardrails without end; metrics do not."""
    registry = CollectorRegistry()
    remote = Metrics(registry).remote
    for index in range(MAX_LABEL_VALUES + 5):
        remote.breaker_is(f"g{index}", "all", 2)
    assert (state_of(registry, "g0"), state_of(registry, "other")) == (2, None)
    assert state_of(registry, f"g{MAX_LABEL_VALUES}") is None


def test_the_breaker_of_a_guardrail_that_is_gone_is_not_shown_as_open() -> None:
    """Nothing would ever ask its server again, and an alert on it would never end."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for scope in ("all", "organization"):
        metrics.remote.breaker_is("toxicity", scope, 2)
    metrics.remote.breaker_is("dlp", "all", 2)
    metrics.policies_loaded([policy("- {name: dlp, type: secrets}")])
    assert [state_of(registry, name) for name in ("toxicity", "dlp")] == [0, 2]
    assert state_of(registry, "toxicity", "organization") == 0

    metrics.remote.breaker_is("dlp.default", "all", 2)
    metrics.policies_loaded([policy("- {name: dlp, type: secrets}")])
    assert state_of(registry, "dlp.default") == 2, "one beside a mandatory namesake is not gone"

    metrics.remote.breaker_is("toxicity", "all", 2)
    assert state_of(registry, "toxicity") == 2
