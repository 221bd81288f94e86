"""The status page over HTTP: its parts, its data, and who gets them. Browsers: tests/browser."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from sidecar.settings.telemetry import StatusPageAccess, TelemetrySettings
from sidecar.telemetry.endpoint import MetricsEndpoint
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.process_metrics import WorkerMetrics
from sidecar.telemetry.status.status_page import EVERY_SECONDS, MAX_POINTS, History, is_known
from tests.support.reports import redacted_report

PARTS = {
    "/status": "text/html; charset=utf-8",
    "/status.js": "text/javascript; charset=utf-8",
    "/status.css": "text/css; charset=utf-8",
    "/status.json": "application/json",
}
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what the chart sets


@contextmanager
def _endpoint(folder: Path, **telemetry: object) -> Iterator[int]:
    """Yield the port of an endpoint with these settings."""
    settings = TelemetrySettings.model_validate({"metrics_port": 0, **telemetry})
    running = MetricsEndpoint(WorkerMetrics(folder), settings)
    running.start()
    try:
        yield running.port
    finally:
        running.close()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an endpoint as it is without any setting."""
    with _endpoint(tmp_path_factory.mktemp("metrics")) as port:
        yield port


def _ask(
    port: int, path: str, *, hosts: Iterable[str] = ("localhost",), method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.putrequest(method, path, skip_host=True)
    for host in hosts:
        connection.putheader("host", host)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


@pytest.mark.parametrize(("path", "content_type"), PARTS.items())
def test_each_part_comes_with_what_keeps_a_browser_strict(
    port: int, path: str, content_type: str
) -> None:
    """Only scripts, styles and data of this very place; in no frame, for no other origin."""
    status, headers, _ = _ask(port, path)

    assert (status, headers["content-type"]) == (200, content_type)
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert headers["access-control-allow-origin"] is None


def test_the_page_needs_nothing_from_elsewhere_and_has_nothing_inline(port: int) -> None:
    """What it loads is served beside it; the only address in it is the name of SVG."""
    pages = {path: _ask(port, path)[2] for path in PARTS}
    loaded = set(re.findall(r"(?:src|href)=\"([^\"]+)\"", pages["/status"]))

    assert loaded == {"status.css", "status.js", "metrics"}
    assert all(_ask(port, f"/{name}")[0] == 200 for name in loaded)
    assert re.findall(r"[a-z]+://[^\"'\s]+", "".join(pages.values())) == [
        "http://www.w3.org/2000/svg"
    ]
    assert (
        re.findall(r"<script[^>]*>(?!</script>)|<style|\sstyle=|\son[a-z]+=", pages["/status"])
        == []
    )
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval", pages["/status.js"]
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading_is_answered(port: int, method: str) -> None:
    """The port changes nothing, and no browser is given leave to try from elsewhere."""
    status, headers, _ = _ask(port, "/status.json", method=method)

    assert status == 501
    assert headers["access-control-allow-origin"] is None


@pytest.mark.parametrize(
    ("hosts", "is_answered"),
    [
        (("localhost",), True),
        (("LOCALHOST.:9464",), True),
        (("127.0.0.1:9464",), True),
        (("[::1]:9464",), True),
        ((), True),
        (("egret.example",), True),
        (("Egret.Example:80",), True),
        (("evil.example",), False),
        (("localhost.evil.example",), False),
        (("evil.localhost.example:9464",), False),
        (("127.0.0.1.evil.example",), False),
        (("localhost:evil",), False),
        (("localhost@evil.example",), False),
        (("evil.example:80@localhost",), False),
        (("[evil.example]",), False),
        (("[::1",), False),
        (("",), False),
        (("localhost", "evil.example"), False),
    ],
)
def test_a_name_that_somebody_else_may_point_here_is_not_answered(
    hosts: tuple[str, ...], *, is_answered: bool
) -> None:
    """DNS rebinding: only names of this machine, addresses, and names that were allowed."""
    assert is_known(hosts, {"egret.example"}) is is_answered


@pytest.mark.parametrize("path", [*PARTS, "/metrics", "/elsewhere"])
def test_on_loopback_no_path_is_answered_by_a_foreign_name(port: int, path: str) -> None:
    """The answer tells nothing and repeats nothing."""
    status, _, body = _ask(port, path, hosts=("evil.example",))

    assert status == 421
    assert body == "not by this host name; EGRET_TELEMETRY__HOST_NAMES allows more\n"


def test_elsewhere_than_on_loopback_there_is_no_page_unless_it_is_asked_for(
    tmp_path: Path,
) -> None:
    """Metrics are served as ever, by any name: a Prometheus has its own for each target."""
    service = ("egret.llm.svc:9464",)
    with _endpoint(tmp_path / "off", metrics_host=EVERYWHERE) as port:
        assert {_ask(port, path)[0] for path in PARTS} == {404}
        assert _ask(port, "/elsewhere")[2] == "see /metrics\n"
        assert _ask(port, "/metrics", hosts=service)[0] == 200
    shown = {"metrics_host": EVERYWHERE, "status_page": "on"}
    with _endpoint(tmp_path / "on", **shown) as port:
        assert {_ask(port, path, hosts=("10.0.0.7:9464",))[0] for path in PARTS} == {200}
        assert {_ask(port, path, hosts=service)[0] for path in PARTS} == {421}
        assert _ask(port, "/metrics", hosts=service)[0] == 200
    with _endpoint(tmp_path / "named", **shown, host_names="a.example,egret.llm.svc") as port:
        assert {_ask(port, path, hosts=service)[0] for path in PARTS} == {200}


@pytest.mark.parametrize(
    ("host", "page", "is_shown"),
    [
        ("127.0.0.1", StatusPageAccess.LOOPBACK, True),
        ("127.8.0.1", StatusPageAccess.LOOPBACK, True),
        ("::1", StatusPageAccess.LOOPBACK, True),
        ("localhost", StatusPageAccess.LOOPBACK, True),
        ("10.0.0.7", StatusPageAccess.LOOPBACK, False),
        (EVERYWHERE, StatusPageAccess.LOOPBACK, False),
        ("", StatusPageAccess.LOOPBACK, False),
        ("egret.example", StatusPageAccess.LOOPBACK, False),
        (EVERYWHERE, StatusPageAccess.ON, True),
        ("127.0.0.1", StatusPageAccess.OFF, False),
    ],
)
def test_whether_there_is_a_page(host: str, page: StatusPageAccess, *, is_shown: bool) -> None:
    """An address that is not surely this machine's alone counts as everybody's."""
    assert TelemetrySettings(metrics_host=host, status_page=page).has_status_page is is_shown


def test_a_damaged_file_fails_the_data_and_not_the_page(tmp_path: Path) -> None:
    """As it fails a scrape."""
    with _endpoint(tmp_path) as port:
        damaged = tmp_path / "counter_1.db"
        damaged.write_bytes(b"\xff\x00\x00\x00" * 64)
        status, _, body = _ask(port, "/status.json")
        assert (status, body) == (500, "see the log\n")
        assert _ask(port, "/status")[0] == 200
        damaged.unlink()
        assert _ask(port, "/status.json")[0] == 200


class Watched(Collector):
    """A worker's metrics that count how often they are collected, and a clock to set."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.metrics = Metrics(self._registry)
        self.collections = 0
        self.now = 1000.0
        self.history = History(self, clock=lambda: self.now)

    @override
    def collect(self) -> Iterable[Metric]:
        self.collections += 1
        return self._registry.collect()

    def points(self, run: str = "", number: int = 0) -> list[dict[str, object]]:
        """Return what somebody gets who has seen up to *number* of *run*."""
        points: list[dict[str, object]] = orjson.loads(self.history.after(run, number))["points"]
        return points

    def run(self) -> str:
        """Return the name of the run."""
        return str(orjson.loads(self.history.after("", 0))["run"])


def test_the_data_are_what_happened_between_two_looks() -> None:
    """The same figures as `egret top`, and the first look has nothing to compare with."""
    watched = Watched()
    assert watched.points() == []
    for _ in range(20):
        watched.metrics.record(redacted_report())
    watched.now += 4.0
    (point,) = watched.points()

    assert (point["number"], point["at"], point["seconds"]) == (1, 4.0, 4.0)
    assert point["outcomes"] == {"redacted": 5.0}
    assert point["guardrails"] == {"keys block": 5.0, "pii redact": 5.0, "tone error_open": 5.0}


def test_however_many_look_metrics_are_collected_once_in_a_while() -> None:
    """A page left open by everybody costs what one costs."""
    watched = Watched()
    for step in range(40):
        watched.now = 1000.0 + step * EVERY_SECONDS / 4
        for _ in range(5):
            watched.points()

    assert watched.collections == 10


def test_whoever_has_seen_some_gets_the_others_and_after_a_restart_all() -> None:
    """Numbers alone would hide what a new supervisor tells from a page of the old one's."""
    watched = Watched()
    for _ in range(4):
        watched.points()
        watched.now += EVERY_SECONDS
    run = watched.run()

    assert [point["number"] for point in watched.points(run, 2)] == [3, 4]
    assert watched.points(run, 4) == []
    assert len(watched.points("00000000", 4)) == 4


def test_what_is_kept_is_bounded() -> None:
    """Five minutes, however long it runs."""
    watched = Watched()
    for _ in range(MAX_POINTS + 10):
        watched.points()
        watched.now += EVERY_SECONDS

    assert len(watched.points()) == MAX_POINTS


@pytest.mark.parametrize("query", ["", "?after=", "?after=x-1", "?after=../..", "?" + "9" * 5000])
def test_a_query_that_is_none_of_the_pages_asks_for_all(port: int, query: str) -> None:
    """And never fails."""
    status, _, body = _ask(port, f"/status.json{query}")

    assert status == 200
    assert set(orjson.loads(body)) == {"run", "every", "points"}
