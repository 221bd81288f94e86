"""The scrape of a supervisor whose workers are real processes that come, count and die."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_classic
from structlog.testing import capture_logs

from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.endpoint import EndpointError, MetricsEndpoint
from sidecar.telemetry.process_metrics import WorkerMetrics
from tests.support.full_disk import files_end_at
from tests.support.metric_workers import metric_worker


@pytest.fixture
def metrics(tmp_path: Path) -> WorkerMetrics:
    return WorkerMetrics(tmp_path / "metrics")


@pytest.fixture
def endpoint(metrics: WorkerMetrics) -> Iterator[MetricsEndpoint]:
    running = MetricsEndpoint(metrics, TelemetrySettings(metrics_port=0))
    running.start()
    yield running
    running.close()


def _get(endpoint: MetricsEndpoint, **headers: str) -> tuple[str, str]:
    url = f"http://127.0.0.1:{endpoint.port}/metrics"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.headers["content-type"], answer.read().decode()


def _value(endpoint: MetricsEndpoint, name: str) -> float | None:
    """Return a sample summed over its labels, None where there is none."""
    values = [
        sample.value
        for family in parse_classic(_get(endpoint)[1])
        for sample in family.samples
        if sample.name == name
    ]
    return sum(values) if values else None


def test_counters_and_histograms_of_all_workers_are_one_sum(
    endpoint: MetricsEndpoint, tmp_path: Path
) -> None:
    """Two workers, three exchanges, one number each."""
    with metric_worker(tmp_path / "metrics") as one, metric_worker(tmp_path / "metrics") as other:
        one.tell("exchange")
        one.tell("exchange")
        other.tell("exchange")

        assert _value(endpoint, "egret_exchanges_total") == 3
        assert _value(endpoint, "egret_overhead_seconds_count") == 3
        assert _value(endpoint, "egret_in_flight_exchanges") == 3


def test_counters_never_fall_when_a_worker_is_killed_and_replaced(
    endpoint: MetricsEndpoint, metrics: WorkerMetrics, tmp_path: Path
) -> None:
    """What the dead one counted stays; what it had in flight is forgotten."""
    directory = tmp_path / "metrics"
    seen = []
    for _ in range(3):
        with metric_worker(directory) as worker:
            worker.tell("exchange")
            seen.append(_value(endpoint, "egret_exchanges_total"))
        seen.append(_value(endpoint, "egret_exchanges_total"))
        metrics.worker_gone(worker.pid)
        seen.append(_value(endpoint, "egret_exchanges_total"))

    assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert _value(endpoint, "egret_overhead_seconds_count") == 3
    assert _value(endpoint, "egret_in_flight_exchanges") is None
    assert sorted(file.name for file in directory.iterdir()) == [
        "counter_gone.db",
        "histogram_gone.db",
    ]


def test_without_room_on_the_disk_the_counts_of_a_dead_worker_stay_in_its_own_file(
    endpoint: MetricsEndpoint, metrics: WorkerMetrics, tmp_path: Path
) -> None:
    """Neither lost nor counted twice; and the supervisor does not die of it."""
    for number in (1, 2):
        with metric_worker(tmp_path / "metrics") as worker:
            worker.tell("exchange")
        with capture_logs() as lines, files_end_at(512):
            metrics.worker_gone(worker.pid)
        assert [line["event"] for line in lines] == 2 * ["metrics.no_room"]
        assert _value(endpoint, "egret_exchanges_total") == number

    assert not list((tmp_path / "metrics").glob("*.new"))


def test_a_worker_that_is_gone_twice_is_counted_once(
    endpoint: MetricsEndpoint, metrics: WorkerMetrics, tmp_path: Path
) -> None:
    """A supervisor may learn of a death by signal and by wait."""
    with metric_worker(tmp_path / "metrics") as worker:
        worker.tell("exchange")
    metrics.worker_gone(worker.pid)
    metrics.worker_gone(worker.pid)

    assert _value(endpoint, "egret_exchanges_total") == 1


def test_the_policy_version_shown_is_that_of_the_worker_that_lags(
    endpoint: MetricsEndpoint, tmp_path: Path
) -> None:
    """A reload is over when the last worker has it."""
    with metric_worker(tmp_path / "metrics") as one, metric_worker(tmp_path / "metrics") as other:
        one.tell("policy", "8")
        other.tell("policy", "7")
        lagging = _value(endpoint, "egret_policy_version")
        other.tell("policy", "8")

        assert (lagging, _value(endpoint, "egret_policy_version")) == (7, 8)


@pytest.mark.parametrize(
    "content",
    [b"\x10" + bytes(7) + b"\xff\0\0\0" + b"x" * 100, b"\0\x10" + bytes(12)],
    ids=["text", "length"],
)
def test_a_damaged_file_of_a_dead_worker_costs_its_counts_alone(
    endpoint: MetricsEndpoint,
    metrics: WorkerMetrics,
    tmp_path: Path,
    content: bytes,
) -> None:
    """The supervisor had ended with it, and all workers with the supervisor."""
    with metric_worker(tmp_path / "metrics") as worker:
        worker.tell("exchange")
    metrics.worker_gone(worker.pid)
    damaged = tmp_path / "metrics" / "counter_77.db"
    damaged.write_bytes(content)

    metrics.worker_gone(77)

    assert not damaged.exists()
    assert _value(endpoint, "egret_exchanges_total") == 1


def test_scrapes_during_restarts_see_totals_that_only_grow(
    endpoint: MetricsEndpoint, metrics: WorkerMetrics, tmp_path: Path
) -> None:
    """Folding a dead worker's counts is one step for a scrape: never twice, never absent."""
    totals: list[float] = []
    stopped = threading.Event()

    def scrape() -> None:
        while not stopped.is_set():
            totals.append(_value(endpoint, "egret_exchanges_total") or 0)

    scraper = threading.Thread(target=scrape)
    scraper.start()
    for _ in range(4):
        with metric_worker(tmp_path / "metrics") as worker:
            worker.tell("exchange")
        metrics.worker_gone(worker.pid)
    stopped.set()
    scraper.join()
    totals.append(_value(endpoint, "egret_exchanges_total") or 0)

    assert totals == sorted(totals)
    assert totals[-1] == 4


def test_a_file_that_a_worker_has_only_just_made_is_passed_over(
    endpoint: MetricsEndpoint, tmp_path: Path
) -> None:
    """A scrape may fall between the file's creation and its first byte."""
    with metric_worker(tmp_path / "metrics") as worker:
        worker.tell("exchange")
        (tmp_path / "metrics" / "counter_1.db").touch()

        assert _value(endpoint, "egret_exchanges_total") == 1


def test_a_new_supervisor_starts_from_nothing(
    endpoint: MetricsEndpoint, metrics: WorkerMetrics, tmp_path: Path
) -> None:
    """Files of a former run would be counted again."""
    with metric_worker(tmp_path / "metrics") as worker:
        worker.tell("exchange")
    metrics.clear()

    assert _value(endpoint, "egret_exchanges_total") is None


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("", "text/plain; version=0.0.4; charset=utf-8", id="classic"),
        pytest.param(
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
            id="openmetrics",
        ),
        pytest.param(
            "application/openmetrics-text;version=rubbish",
            "text/plain; version=0.0.4; charset=utf-8",
            id="a version that is none",
        ),
    ],
)
def test_the_format_follows_accept(
    endpoint: MetricsEndpoint, tmp_path: Path, accept: str, content_type: str
) -> None:
    """Both formats are parsed by the parsers of their own specification."""
    with metric_worker(tmp_path / "metrics") as worker:
        worker.tell("exchange")
        told, text = _get(endpoint, accept=accept)
    parse = parse_openmetrics if "openmetrics" in content_type else parse_classic
    names = {sample.name for family in parse(text) for sample in family.samples}

    assert told == content_type
    assert {"egret_exchanges_total", "egret_overhead_seconds_bucket"} <= names


def test_buckets_lead_to_traces_where_the_format_can_say_so(
    endpoint: MetricsEndpoint, metrics: WorkerMetrics, tmp_path: Path
) -> None:
    """For as long as the worker lives whose exchange it was."""
    openmetrics = "application/openmetrics-text;version=1.0.0"
    with metric_worker(tmp_path / "metrics") as worker:
        worker.tell("exchange traced")
        with_exemplars = _get(endpoint, accept=openmetrics)[1]
        classic = _get(endpoint)[1]
    metrics.worker_gone(worker.pid)
    exemplars = {
        (sample.name, sample.labels["le"]): sample.exemplar
        for family in parse_openmetrics(with_exemplars)  # type: ignore[no-untyped-call] # prometheus-client 0.26
        for sample in family.samples
        if sample.exemplar is not None
        and "phase" not in sample.labels
        and "guardrail" not in sample.labels
    }

    (place,) = exemplars
    assert place == ("egret_overhead_seconds_bucket", "0.005")
    assert exemplars[place].labels == {"trace_id": f"{0xABC:032x}"}
    assert exemplars[place].value == 0.004
    assert "trace_id" not in classic
    assert "trace_id" not in _get(endpoint, accept=openmetrics)[1]


def test_a_scraper_that_takes_gzip_gets_it(endpoint: MetricsEndpoint) -> None:
    """Prometheus always asks for it."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port)
    connection.request("GET", "/metrics", headers={"accept-encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()

    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == b""


def test_any_other_path_is_not_found(endpoint: MetricsEndpoint) -> None:
    """The answer does not repeat the path."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/secret-path")
    with raised.value as answer:
        assert (answer.code, answer.read()) == (404, b"see /metrics and /status\n")


def test_a_port_in_use_is_named_with_the_setting_that_fixes_it(metrics: WorkerMetrics) -> None:
    """A supervisor that cannot be scraped says so at start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EndpointError) as raised:
            MetricsEndpoint(metrics, TelemetrySettings(metrics_port=port))

    assert str(raised.value) == (
        f"metrics endpoint cannot listen on 127.0.0.1:{port} ({os.strerror(98)}); free it or"
        " set EGRET_TELEMETRY__METRICS_HOST and EGRET_TELEMETRY__METRICS_PORT (0: any)"
    )


def test_a_scraper_that_hangs_up_leaves_the_endpoint_answering(
    endpoint: MetricsEndpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback, no stuck thread."""
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", endpoint.port)) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.1\r\n")
    content_type, _ = _get(endpoint)

    assert content_type.startswith("text/plain")
    assert capfd.readouterr().err == ""


def test_a_damaged_file_fails_the_scrape_and_not_the_endpoint(
    endpoint: MetricsEndpoint, tmp_path: Path
) -> None:
    """Half the truth would look like a counter going back; no answer looks like what it is."""
    damaged = tmp_path / "metrics" / "counter_1.db"
    damaged.write_bytes(b"\xff\x00\x00\x00" * 64)
    with pytest.raises(urllib.error.HTTPError) as raised:
        _get(endpoint)
    raised.value.close()
    damaged.unlink()

    assert raised.value.code == 500
    assert _get(endpoint)[1] == ""
