"""The supervisor's HTTP: `/metrics`, one answer for all workers, and `/status`, a page of them."""

from __future__ import annotations

import gzip
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Final, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from typing_extensions import override

from sidecar.settings.telemetry import TelemetrySettings
from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent
from sidecar.telemetry.process_metrics import WorkerMetrics
from sidecar.telemetry.status.status_page import HEADERS, Content, StatusPage, is_known

METRICS_PATH: Final = "/metrics"
PLAIN_TEXT: Final = "text/plain; charset=utf-8"
OTHER_NAME: Final = b"not by this host name; EGRET_TELEMETRY__HOST_NAMES allows more\n"
POLL_SECONDS: Final = 0.1
"""How soon `close` is noticed."""
SCRAPE_TIMEOUT_SECONDS: Final = 10.0
"""A scraper that stalls is dropped after this long; it holds one thread until then."""


class EndpointError(Exception):
    """The endpoint cannot listen at its address; the text says where and how to change it."""


class MetricsEndpoint:
    """The HTTP server around `WorkerMetrics`. It answers on threads of its own.

    `registry` takes the supervisor's own metrics as well.
    """

    def __init__(self, metrics: WorkerMetrics, telemetry: TelemetrySettings) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=False)
        self.registry.register(metrics)
        try:
            self._server = _Server(self.registry, telemetry)
        except OSError as error:
            host, port = telemetry.metrics_host, telemetry.metrics_port
            raise EndpointError(
                f"metrics endpoint cannot listen on {host}:{port} ({error.strerror}); free it or"
                " set EGRET_TELEMETRY__METRICS_HOST and EGRET_TELEMETRY__METRICS_PORT (0: any)"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True
        )

    @property
    def port(self) -> int:
        """The port listened on, chosen by the system if it is configured as 0."""
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, registry: CollectorRegistry, telemetry: TelemetrySettings) -> None:
        self.registry = registry
        self.status = StatusPage(registry) if telemetry.has_status_page else None
        self.host_names = frozenset(filter(None, telemetry.host_names.split(",")))
        self.is_local = telemetry.is_local
        super().__init__((telemetry.metrics_host, telemetry.metrics_port), _Request)

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a scraper that hangs up; the standard library prints a traceback."""


class _Request(BaseHTTPRequestHandler):
    timeout: ClassVar[float | None] = SCRAPE_TIMEOUT_SECONDS
    server_version = "egret"
    sys_version = ""

    def do_GET(self) -> None:
        site = cast("_Server", self.server)
        path, _, query = self.path.partition("?")
        is_metrics = path == METRICS_PATH
        # Beyond loopback a Prometheus asks for metrics by any name, and every host that reaches
        # the port may read them anyway.
        is_open = is_metrics and not site.is_local
        if not is_open and not is_known(self.headers.get_all("host", []), site.host_names):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, OTHER_NAME, PLAIN_TEXT)
            return
        try:
            content = None
            if is_metrics:
                accept = self.headers.get("accept", "")
                try:
                    encode, content_type = choose_encoder(accept)
                except (TypeError, ValueError):  # an invalid version (prometheus-client 0.26)
                    encode, content_type = choose_encoder("")
                content = Content(encode(site.registry), content_type)
            elif site.status is not None:
                content = site.status.content(path, query)
        except Exception as error:  # noqa: BLE001 - a damaged file must be seen, and end no thread
            get_logger().error(LogEvent.SCRAPE_FAILED, exc_info=error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n", PLAIN_TEXT)
            return
        if content is None:
            places = "see /metrics\n" if site.status is None else "see /metrics and /status\n"
            self._answer(HTTPStatus.NOT_FOUND, places.encode(), PLAIN_TEXT)
        else:
            self._answer(HTTPStatus.OK, content.body, content.content_type)

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
        """Write no line: scrapes come every few seconds, and a path is the caller's text."""
