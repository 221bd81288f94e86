"""`egret top`: the traffic between two pages of metrics."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from prometheus_client import generate_latest
from typer.testing import CliRunner, Result
from typing_extensions import override

from sidecar.cli.main import command_tree
from tests.support.metric_pages import MetricPages


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a page on which something happens between any two looks."""
    worker = MetricPages()

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


def test_a_stack_in_another_folder_is_a_reason_to_name_it() -> None:
    """`egret up` wrote its address below the folder where it was started."""
    ran = _top("--metrics", "http://127.0.0.1:9/", "--run", "elsewhere/run")

    assert "no stack of `egret up` in elsewhere/run" in ran.stderr
    assert "--run" in ran.stderr


@pytest.mark.parametrize("facts", ["", "[]", "3", '{"url": 1}'])
def test_a_damaged_file_of_a_stack_is_none(tmp_path: Path, facts: str) -> None:
    """Whatever JSON it is."""
    (tmp_path / "egret.json").write_text(facts)

    ran = _top("--run", str(tmp_path))

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"no stack of `egret up` in {tmp_path}; name" in ran.stderr


def test_a_named_folder_without_a_stack_shows_the_figures_of_no_other(tmp_path: Path) -> None:
    """Another stack may answer at the usual address."""
    ran = _top("--run", str(tmp_path))

    assert (ran.exit_code, ran.stdout) == (2, "")
    assert f"no stack of `egret up` in {tmp_path}; name" in ran.stderr
