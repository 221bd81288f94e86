"""Envoy's own metrics beside clients: a real Envoy whose admin is a socket of its own user."""

from __future__ import annotations

import re
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from time import monotonic, sleep

import pytest
from egret_tools.devstack.credentials import (
    write_certificate,
    write_certificates,
    write_credential,
)
from egret_tools.devstack.envoy_config import EnvoyParameters, render_envoy_config
from egret_tools.devstack.processes import envoy_program, free_port
from egret_tools.envoy_lint.lint import lint
from pydantic import SecretStr

STARTS_SECONDS = 30
PATH = "/stats/prometheus"


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where they are served, and the admin's socket."""

    port: int
    admin: Path

    def ask(self, method: str, target: str) -> tuple[int, str]:
        """Return status and body; the target goes out as it is written."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def metrics() -> Iterator[Metrics]:
    """Run Envoy with the configuration that Egret ships; its workers are not there."""
    place = Path(tempfile.mkdtemp(prefix="egret-"))
    found = Metrics(free_port(), place / "admin.sock")
    parameters = EnvoyParameters(
        worker_sockets=(str(place / "worker-0.sock"),),
        sds_directory=str(place),
        https_address="127.0.0.1",
        https_port=free_port(),
        admin_socket=str(found.admin),
        metrics_port=found.port,
    )
    _write_secrets(place)
    (place / "envoy.yaml").write_text(render_envoy_config(parameters))
    command = (envoy_program(), "--disable-hot-restart", "--concurrency", "1", "-l", "error")
    with subprocess.Popen((*command, "-c", place / "envoy.yaml")) as process:
        try:
            _until_served(found)
            yield found
        finally:
            process.terminate()
            process.wait(timeout=STARTS_SECONDS)
            shutil.rmtree(place)


def _write_secrets(place: Path) -> None:
    gateway = write_certificates(place / "certificates").gateway
    write_certificate(place, name="server_certificate", certificate=gateway)
    for provider in ("openai", "anthropic"):
        write_credential(place, name=provider, header_value=SecretStr("made up"))


def _until_served(metrics: Metrics) -> None:
    ends = monotonic() + STARTS_SECONDS
    while True:
        try:
            status, _ = metrics.ask("GET", PATH)
        except (OSError, HTTPException):
            status = 0
        if status == 200:
            return
        assert monotonic() < ends, "Envoy serves no metrics"
        sleep(0.05)


@pytest.mark.parametrize("target", [PATH, f"{PATH}?text_readouts"])
def test_prometheus_reads_envoys_metrics(metrics: Metrics, target: str) -> None:
    """Also those of the filter before it is asked for the first time, by which alerts go."""
    status, page = metrics.ask("GET", target)

    assert status == 200
    assert "\nenvoy_server_live{" in page
    assert re.search(r"^envoy_http_ext_proc_egret_streams_started\{.*\} 0$", page, re.MULTILINE)
    assert stat.S_IMODE(metrics.admin.stat().st_mode) == 0o600


@pytest.mark.parametrize(("path", "answer"), [("/ready", "LIVE\n"), ("/live", "")])
def test_probes_have_a_path_each(metrics: Metrics, path: str, answer: str) -> None:
    """Envoy's own answer says whether it takes requests; the other, that a thread answers."""
    assert metrics.ask("GET", path) == (200, answer)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/stats"),
        ("GET", "/config_dump"),
        ("GET", "/certs"),
        ("GET", f"{PATH}/"),
        ("GET", "/ready/"),
        ("POST", "/ready"),
        ("GET", "/live/../config_dump"),
        ("GET", f"/{PATH}"),
        ("GET", f"{PATH}/../../config_dump"),
        ("GET", "/config_dump/../stats/prometheus"),
        ("GET", "/stats%2fprometheus"),
        ("GET", f"/config_dump?{PATH}"),
        ("POST", "/quitquitquit"),
        ("POST", "/stats/prometheus/../../quitquitquit"),
        ("POST", PATH),
        ("HEAD", PATH),
        ("PUT", PATH),
        ("OPTIONS", PATH),
    ],
)
def test_nothing_else_of_the_admin_is_reached(metrics: Metrics, method: str, target: str) -> None:
    """No other path, no other method, and no way of writing that becomes the one path."""
    assert metrics.ask(method, target) == (404, "")


def test_egret_lint_finds_nothing_in_what_this_envoy_says_of_itself(metrics: Metrics) -> None:
    """Its dump, over the admin's socket, as docs/lint.md has it: it knows where that is."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(metrics.admin))
        client.sendall(b"GET /config_dump HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = HTTPResponse(client)
        answer.begin()
        dump = answer.read().decode()

    assert '"name": "metrics"' in dump
    assert lint("dump.json", dump).findings == ()


def test_what_is_no_method_of_a_reader_leaves_envoy_running(metrics: Metrics) -> None:
    """A tunnel is refused, and two requests in one do not pass as one."""
    smuggled = (
        f"GET {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
        "POST /quitquitquit HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", metrics.port), timeout=60) as client:
        client.sendall(smuggled.encode())
        answers = b"".join(iter(lambda: client.recv(65536), b""))

    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 404 Not Found" in answers
    assert metrics.ask("CONNECT", "localhost:9901")[0] == 404
    assert metrics.ask("GET", PATH)[0] == 200
