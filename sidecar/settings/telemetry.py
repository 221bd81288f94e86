"""Settings of what is told about the process: spans, metrics, log lines."""

from __future__ import annotations

import enum
import ipaddress
from typing import Annotated

from pydantic import Field

from sidecar.settings.sections import Section


class OtlpProtocol(enum.Enum):
    """How telemetry travels to a collector, in the words of OTEL_EXPORTER_OTLP_PROTOCOL."""

    GRPC = "grpc"
    HTTP = "http/protobuf"


class StatusPage(enum.Enum):
    """Where the page of charts is shown: on loopback alone, wherever metrics are, or nowhere."""

    LOOPBACK = "loopback"
    ON = "on"
    OFF = "off"


class TelemetrySettings(Section):
    """Where spans and metrics go and what is logged."""

    otlp_endpoint: str | None = None
    """For example `http://127.0.0.1:4317`, over HTTP without a path; None exports no spans."""
    otlp_protocol: OtlpProtocol = OtlpProtocol.GRPC
    kept_traces_per_second: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Exchanges of one worker that were blocked, failed, slow or not judged, and are traced
    although Envoy did not sample them; 0 keeps none."""
    metrics_push_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """How often all metrics are pushed to the same collector; 0 pushes none."""
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    status_page: StatusPage = StatusPage.LOOPBACK
    """`/status` beside `/metrics`. It shows no more than those, but to whoever has a browser."""
    host_names: Annotated[str, Field(pattern="^[a-z0-9.,-]*$")] = ""
    """Names, parted by commas, that browsers may ask by beside localhost and addresses."""
    slow_request_ms: Annotated[float, Field(gt=0)] = 250.0
    completed_log_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of the lines about exchanges that were let through as they came, and in no way slow."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"

    @property
    def is_local(self) -> bool:
        """Whether metrics are served to this machine alone."""
        if self.metrics_host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.metrics_host).is_loopback
        except ValueError:
            return False

    @property
    def has_status_page(self) -> bool:
        """Whether `/status` is there."""
        return self.status_page is StatusPage.ON or (
            self.status_page is StatusPage.LOOPBACK and self.is_local
        )
