"""`egret top`: from two pages of metrics to what happened between them."""

from __future__ import annotations

import dataclasses
import http.server
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner, Result
from typing_extensions import override

from sidecar.cli.main import command_tree
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.process_metrics import SupervisorMetrics
from sidecar.telemetry.traffic_stats import MetricsSnapshot, parse_snapshot, traffic_stats
from tests.support.reports import redacted_report, timings
from tests.support.usage import ended


class Worker:
    """Metrics that a page is made of."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        SupervisorMetrics(self.registry, wanted=2).running(1)

    def page(self, at: float = 0.0) -> MetricsSnapshot:
        """Return the page as it is."""
        return parse_snapshot(generate_latest(self.registry).decode(), at=at)

    def work(self, exchanges: int) -> None:
        """Report exchanges that were redacted, and their answers."""
        for _ in range(exchanges):
            self.metrics.record(dataclasses.replace(redacted_report(), timings=timings(0.004)))
            self.metrics.usage.exchange_ended(ended())
            self.metrics.usage.cost(ended(), Decimal("0.01"))


def test_figures_are_what_was_counted_between_two_pages() -> None:
    """Twenty exchanges in four seconds, whatever there was before."""
    worker = Worker()
    worker.work(7)
    before = worker.page(at=10.0)
    worker.work(20)
    worker.metrics.exchange_began()
    now = traffic_stats(before, worker.page(at=14.0))

    assert (now.seconds, now.requests, now.in_flight) == (4.0, 5.0, 1)
    assert (now.workers_running, now.workers_wanted) == (1, 2)
    assert now.outcomes == {"redacted": 5.0}
    assert now.errors == {}
    assert (now.tiers, now.cache_hit_ratio) == ({"l1": 5.0}, 1.0)
    assert now.guardrails == {"keys block": 5.0, "pii redact": 5.0, "tone error_open": 5.0}
    assert now.providers == {"openai none": 5.0}
    assert now.cost_usd_an_hour == pytest.approx(180)
    # All in the bucket from 2.5 to 5 ms: the half of it is at 3.75.
    assert now.overhead_ms["p50"] == pytest.approx(3.75)


def test_counts_of_a_new_supervisor_are_all_new() -> None:
    """They are less than before, and no rate is below nothing."""
    old, new = Worker(), Worker()
    old.work(30)
    new.work(2)

    assert traffic_stats(old.page(at=0.0), new.page(at=1.0)).requests == 2


def test_without_traffic_there_is_nothing_to_divide_by() -> None:
    """No latency, no ratio, no lines."""
    worker = Worker()
    now = traffic_stats(worker.page(at=0.0), worker.page(at=2.0))

    assert (now.requests, now.cache_hit_ratio) == (0, None)
    assert now.overhead_ms == {"p50": None, "p95": None, "p99": None}
    assert now.outcomes == now.guardrails == now.faults == {}


def test_what_is_slower_than_the_last_bucket_counts_as_that_bucket() -> None:
    """As Prometheus does it."""
    worker = Worker()
    before = worker.page()
    worker.metrics.record(dataclasses.replace(redacted_report(), timings=timings(60.0)))

    assert traffic_stats(before, worker.page(at=1.0)).overhead_ms["p50"] == 5000


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a page on which something happens between any two looks."""
    worker = Worker()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            worker.work(1)
            self.send_response(200)
            self.end_headers()
            is_page = self.path == "/metrics"
            self.wfile.write(generate_latest(worker.registry) if is_page else b"<html> {")

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def _top(*words: str) -> Result:
    line = ("top", "--every", "0.2", *words)
    return CliRunner().invoke(command_tree(line), line)


def test_programs_get_one_span_of_time_as_json(url: str) -> None:
    """And the command ends."""
    ran = _top("--metrics", f"{url}/metrics", "--output", "json")
    told = orjson.loads(ran.stdout)

    assert ran.exit_code == 0
    assert list(told["outcomes"]) == ["redacted"]
    assert told["requests"] == pytest.approx(1 / told["seconds"])


def test_a_pipe_gets_one_picture(url: str) -> None:
    """Every table has its place, also one with nothing in it."""
    ran = _top("--metrics", f"{url}/metrics")

    assert ran.exit_code == 0
    for words in ("requests/s", "1 of 2 workers", "pii redact", "cache 100%", "Limits", "Faults"):
        assert words in ran.stdout


def test_a_picture_in_a_pipe_is_as_wide_as_a_page(url: str) -> None:
    """Frames fill a width, and a pipe has none."""
    ran = _top("--metrics", f"{url}/metrics")

    assert max(map(len, ran.stdout.splitlines())) == 120


def test_the_page_of_the_stack_on_this_machine_is_found(url: str, tmp_path: Path) -> None:
    """Its port is another one each time."""
    (tmp_path / "egret.json").write_bytes(orjson.dumps({"metrics_url": f"{url}/metrics"}))

    ran = _top("--run", str(tmp_path), "--output", "json")

    assert ran.exit_code == 0
    assert list(orjson.loads(ran.stdout)["outcomes"]) == ["redacted"]


@pytest.mark.parametrize(
    ("path", "problem"), [("/other", "is no page of metrics"), (None, "no answer at")]
)
def test_what_is_no_page_of_metrics_is_said_with_the_hint(
    url: str, path: str | None, problem: str
) -> None:
    """In one line; nothing is shown."""
    ran = _top("--metrics", "http://127.0.0.1:9/" if path is None else url + path)

    assert (ran.exit_code, ran.stdout) == (1, "")
    assert problem in ran.stderr
    assert "--metrics URL" in ran.stderr
