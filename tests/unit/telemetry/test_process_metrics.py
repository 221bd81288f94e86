"""What is shown of a worker's process itself."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry

from sidecar.telemetry.process_metrics import (
    MAX_PAUSES,
    GcPauses,
    PoolUse,
    ProcessMetrics,
    SupervisorMetrics,
    TableUse,
)


@pytest.fixture
def pauses() -> Iterator[GcPauses]:
    watched = GcPauses()
    watched.start()
    yield watched
    watched.stop()


def test_a_collection_is_noted_with_its_generation_and_taken_once(
    pauses: GcPauses, registry: CollectorRegistry
) -> None:
    """The figures become a histogram when somebody takes them, not while garbage is collected."""
    gc.collect(2)
    taken = pauses.take()
    metrics = ProcessMetrics(registry)
    metrics.collected([(2, 0.5), (0, 0.001)])

    assert [generation for generation, _ in taken if generation == 2] == [2]
    assert all(0 < seconds < 10 for _, seconds in taken)
    assert 2 not in [generation for generation, _ in pauses.take()]
    sums = [
        registry.get_sample_value("egret_gc_pause_seconds_sum", {"generation": one})
        for one in "012"
    ]
    assert sums == [0.001, 0.0, 0.5]


def test_collections_that_nobody_takes_fill_no_memory(pauses: GcPauses) -> None:
    """A loop that hangs takes none, and garbage is collected all the same."""
    for _ in range(MAX_PAUSES + 100):
        gc.collect(0)

    assert len(pauses.take()) == MAX_PAUSES


def test_a_pool_is_shown_by_what_its_connections_do(registry: CollectorRegistry) -> None:
    """Busy and idle add up to what is open."""
    ProcessMetrics(registry).pool_is(PoolUse(busy=3, open=4, limit=8))
    shown = [
        registry.get_sample_value("egret_database_connections", {"state": state})
        for state in ("busy", "idle")
    ]

    assert (shown, registry.get_sample_value("egret_database_connections_limit")) == ([3, 1], 8)


def test_a_count_of_known_messages_that_falls_adds_nothing(registry: CollectorRegistry) -> None:
    """Stand-ins may be longer than the messages they stand for: fewer bytes are saved then."""
    metrics = ProcessMetrics(registry)
    for saved, held in ((500, 70), (300, 50), (600, 60)):
        metrics.table_is(TableUse(saved_bytes=saved, bytes=held))

    shown = [
        registry.get_sample_value(name)
        for name in ("egret_known_message_bytes_total", "egret_message_table_bytes")
    ]
    assert shown == [600, 60]


def test_a_supervisor_shows_the_workers_there_are_and_counts_those_that_died(
    registry: CollectorRegistry,
) -> None:
    """The count is there before the first death: a rate would miss it otherwise."""
    metrics = SupervisorMetrics(registry, wanted=4)
    before = registry.get_sample_value("egret_worker_deaths_total")
    metrics.running(3)
    metrics.worker_died()

    assert before == 0
    assert [
        registry.get_sample_value(f"egret_{name}")
        for name in ("workers_wanted", "workers_running", "worker_deaths_total")
    ] == [4, 3, 1]


def test_the_first_certificate_of_a_file_that_expires_is_shown(
    registry: CollectorRegistry, tmp_path: Path
) -> None:
    """Read at each scrape, so that a renewed file counts at once; none while it is no PEM."""
    server, client_ca = tmp_path / "server.pem", tmp_path / "ca.pem"
    SupervisorMetrics(registry, wanted=1, certificates={"server": server, "client_ca": client_ca})
    first, later = (datetime(year, 1, 1, tzinfo=UTC) for year in (2031, 2032))
    authority = trustme.CA()

    def expiry(name: str) -> float | None:
        labels = {"certificate": name}
        return registry.get_sample_value("egret_certificate_expires_timestamp_seconds", labels)

    for not_after in (later, first):
        issued = authority.issue_cert("egret.example", not_after=not_after)
        issued.cert_chain_pems[0].write_to_path(server, append=True)
        assert expiry("server") == not_after.timestamp()
    assert math.isnan(expiry("client_ca") or 0)
    client_ca.write_text("no certificate")
    assert math.isnan(expiry("client_ca") or 0)
