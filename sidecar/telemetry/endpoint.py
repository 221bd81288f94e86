"""The supervisor's HTTP: `/metrics`, one answer for all workers, and `/status`, a page of them."""

from __future__ import annotations

import functools
import gzip
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from typing_extensions import override

from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent
from sidecar.telemetry.process_metrics import WorkerMetrics
from sidecar.telemetry.status.status_page import HEADERS, Part, StatusPage, is_known

METRICS_PATH: Final = "/metrics"
PLAIN_TEXT: Final = "text/plain; charset=utf-8"
OTHER_NAME: Final = b"not by this host name; EGRET_TELEMETRY__HOST_NAMES allows more\n"
POLL_SECONDS: Final = 0.1
"""How soon `close` is noticed."""
SCRAPE_TIMEOUT_SECONDS: Final = 10.0
"""A scraper that stalls is dropped after this long; it holds one thread until then."""


class EndpointError(Exception):
    """The endpoint cannot listen where it was told to; the text says where and what to change."""


class MetricsEndpoint:
    """The HTTP server around `WorkerMetrics`. It answers on threads of its own.

    `registry` is where whoever runs the workers counts on its own account.
    """

    def __init__(self, metrics: WorkerMetrics, telemetry: TelemetrySettings) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=False)
        self.registry.register(metrics)
        host, port = telemetry.metrics_host, telemetry.metrics_port
        try:
            self._server = _Server((host, port), _Site(self.registry, telemetry))
        except OSError as error:
            raise EndpointError(
                f"metrics endpoint cannot listen on {host}:{port} ({error.strerror}): free it or"
                " set EGRET_TELEMETRY__METRICS_HOST and EGRET_TELEMETRY__METRICS_PORT (0: any)"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True
        )

    @property
    def port(self) -> int:
        """The port listened on, chosen by the system where 0 was asked for."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and release the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version in Accept that is none (prometheus-client 0.26)
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Site:
    """What is answered, and to whom."""

    def __init__(self, registry: CollectorRegistry, telemetry: TelemetrySettings) -> None:
        self.registry = registry
        self.status = StatusPage(registry) if telemetry.has_status_page else None
        self.places = "see /metrics\n" if self.status is None else "see /metrics and /status\n"
        self._host_names = frozenset(filter(None, telemetry.host_names.split(",")))
        self._is_local = telemetry.is_local

    def may_ask(self, hosts: Sequence[str], *, is_metrics: bool) -> bool:
        """Return whether a request by these names is answered.

        Elsewhere than on loopback a Prometheus asks for metrics by any name, and whoever reaches
        the port may read them anyway.
        """
        return (is_metrics and not self._is_local) or is_known(hosts, self._host_names)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], site: _Site) -> None:
        super().__init__(address, functools.partial(_Request, site))

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that hangs up is its own business; the standard prints a traceback."""


class _Request(BaseHTTPRequestHandler):
    timeout: ClassVar[float | None] = SCRAPE_TIMEOUT_SECONDS
    server_version = "egret"
    sys_version = ""

    def __init__(self, site: _Site, *connection: Any) -> None:
        self._site = site
        super().__init__(*connection)  # answers before it returns

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        is_metrics = path == METRICS_PATH
        if not self._site.may_ask(self.headers.get_all("host", []), is_metrics=is_metrics):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, OTHER_NAME, PLAIN_TEXT)
            return
        try:
            part = self._metrics() if is_metrics else self._status(path, query)
        except Exception as error:  # noqa: BLE001 - a damaged file must be seen, and end no thread
            get_logger().error(LogEvent.SCRAPE_FAILED, exc_info=error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n", PLAIN_TEXT)
            return
        if part is None:
            self._answer(HTTPStatus.NOT_FOUND, self._site.places.encode(), PLAIN_TEXT)
        else:
            self._answer(HTTPStatus.OK, part.body, part.content_type)

    def _metrics(self) -> Part:
        accept = self.headers.get("accept", "")
        return Part(*_exposition(self._site.registry, accept))

    def _status(self, path: str, query: str) -> Part | None:
        return None if self._site.status is None else self._site.status.part(path, query)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        is_gzip = "gzip" in self.headers.get("accept-encoding", "")
        if is_gzip:
            body = gzip.compress(body, compresslevel=1)
        self.send_response(status)
        self.send_header("content-type", content_type)
        for name, value in HEADERS:
            self.send_header(name, value)
        if is_gzip:
            self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is not worth a line, and a path is the caller's text."""
