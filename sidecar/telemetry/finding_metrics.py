"""Metrics of findings by type and role, and the warning about a type that is found too often.

A rule that is wrong shows first in its volume: a redaction rewrites text without an error.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from sidecar.domain.finding import ANSWER_ROLE, FindingCount
from sidecar.domain.policy import Guardrail
from sidecar.telemetry import sanitize
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.mmap_metrics import Observe, summing
from sidecar.telemetry.names import OVERFLOW, LogEvent, MetricName
from sidecar.telemetry.sanitize import LabelCap

MAX_SERIES: Final = 1_000
"""Of findings, in a worker. Types of remote guardrails and roles could make any number of them."""

WINDOW_SECONDS: Final = 3600.0
WINDOW_CHECKS: Final = 100
"""A window lasts an hour, or longer until it has so many checks: a share of fewer says little."""


_Key = tuple[str, str, str, int, int]
"""Guardrail, type, role, and the ids of verdict and mode."""


@dataclass(slots=True)
class _Window:
    """The checks of a guardrail since a time, and in how many of them each type was found."""

    began_at: float | None = None
    checks: int = 0
    found: Counts[str] = field(default_factory=Counts[str])
    warned: set[str] = field(default_factory=set[str])


class FindingMetrics:
    """One instance a process."""

    def __init__(self, registry: CollectorRegistry, *, guardrail_label: LabelCap) -> None:
        self._guardrail_label = guardrail_label
        self._type_label = LabelCap(MAX_SERIES)
        self._findings = Counter(
            MetricName.GUARDRAIL_FINDINGS,
            "Findings by type and by the role of their text; in shadow as enforce would have had.",
            ("guardrail", "finding_type", "role", "verdict", "mode"),
            registry=registry,
        )
        self._warnings = Counter(
            MetricName.GUARDRAIL_VOLUME_WARNINGS,
            "Types that were found in a larger share of checks than `warn_on_volume` allows.",
            ("guardrail", "finding_type"),
            registry=registry,
        )
        self._add: dict[_Key, Observe] = {}
        self._windows: dict[str, _Window] = {}

    def counting_checks(self, guardrail: Guardrail, observe: Observe) -> Observe:
        """Return *observe*, which also counts the checks of a guardrail with a threshold."""
        name = self._guardrail_label(guardrail.name)
        if guardrail.warn_on_volume is None or name == OVERFLOW:
            return observe
        window = self._windows.setdefault(name, _Window())

        def observe_check(seconds: float) -> None:
            window.checks += 1
            observe(seconds)

        return observe_check

    def count(self, counts: Sequence[FindingCount], *, at: float) -> None:
        """Count the findings of a request that began *at* (monotonic seconds), and warn."""
        watched: dict[tuple[str, str, bool], Guardrail] = {}
        for one in counts:
            guardrail = one.guardrail
            # Ids: members of an enumeration are hashed in Python (3.11).
            key = guardrail.name, one.type, one.role, id(one.verdict), id(guardrail.mode)
            add = self._add.get(key)
            if add is None:
                name = self._guardrail_label(guardrail.name)
                labels = [name, self._type_label(sanitize.word(one.type)), one.role]
                if len(self._add) >= MAX_SERIES:
                    labels[1:] = OVERFLOW, OVERFLOW
                add = summing(
                    self._findings.labels(*labels, one.verdict.value, guardrail.mode.value)
                )
                if len(self._add) < MAX_SERIES:
                    self._add[key] = add
            add(one.findings)
            if guardrail.warn_on_volume is not None:
                # A type in several roles of a request is one; request and answer are a check each.
                watched[guardrail.name, one.type, one.role == ANSWER_ROLE] = guardrail
        for (_, type_, _), guardrail in watched.items():
            self._note_volume(guardrail, type_, at)

    def _note_volume(self, guardrail: Guardrail, type_: str, at: float) -> None:
        """Count a check that found *type_*, and warn if there are too many of them."""
        name = self._guardrail_label(guardrail.name)
        window, threshold = self._windows.get(name), guardrail.warn_on_volume
        if window is None or threshold is None:
            return
        if window.began_at is None:
            window.began_at = at
        elif at - window.began_at >= WINDOW_SECONDS and window.checks >= WINDOW_CHECKS:
            window.began_at, window.checks = at, 1
            window.found.clear()
            window.warned.clear()
        window.found[type_] += 1
        found, checks = window.found[type_], window.checks
        if checks < WINDOW_CHECKS or type_ in window.warned or found <= threshold * checks:
            return
        window.warned.add(type_)
        shown = sanitize.word(type_)
        self._warnings.labels(name, self._type_label(shown)).inc()
        get_logger().warning(
            LogEvent.VOLUME,
            guardrail=name,
            finding_type=shown,
            found=found,
            checks=checks,
            threshold=threshold,
        )
