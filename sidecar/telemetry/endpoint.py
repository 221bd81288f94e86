"""`GET /metrics` of the supervisor: one answer for all workers, classic or OpenMetrics."""

from __future__ import annotations

import functools
import gzip
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from typing_extensions import override

from sidecar.telemetry.logs import get_logger
from sidecar.telemetry.names import LogEvent
from sidecar.telemetry.worker_metrics import WorkerMetrics

METRICS_PATH: Final = "/metrics"
PLAIN_TEXT: Final = "text/plain; charset=utf-8"
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

    def __init__(self, metrics: WorkerMetrics, *, host: str, port: int) -> None:
        self.registry: Final = CollectorRegistry(auto_describe=False)
        self.registry.register(metrics)
        try:
            self._server = _Server((host, port), self.registry)
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        super().__init__(address, functools.partial(_Scrape, registry))

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that hangs up is its own business; the standard prints a traceback."""


class _Scrape(BaseHTTPRequestHandler):
    timeout: ClassVar[float | None] = SCRAPE_TIMEOUT_SECONDS
    server_version = "egret"
    sys_version = ""

    def __init__(self, registry: CollectorRegistry, *connection: Any) -> None:
        self._registry = registry
        super().__init__(*connection)  # answers before it returns

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != METRICS_PATH:
            self._answer(HTTPStatus.NOT_FOUND, b"see /metrics\n", PLAIN_TEXT)
            return
        try:
            body, content_type = _exposition(self._registry, self.headers.get("accept", ""))
        except Exception as error:  # noqa: BLE001 - a damaged file must be seen, and end no thread
            get_logger().error(LogEvent.SCRAPE_FAILED, exc_info=error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n", PLAIN_TEXT)
            return
        self._answer(HTTPStatus.OK, body, content_type)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        is_gzip = "gzip" in self.headers.get("accept-encoding", "")
        if is_gzip:
            body = gzip.compress(body, compresslevel=1)
        self.send_response(status)
        self.send_header("content-type", content_type)
        if is_gzip:
            self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is not worth a line, and a path is the caller's text."""
