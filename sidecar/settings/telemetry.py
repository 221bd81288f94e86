"""Settings of telemetry: spans, metrics, log lines, alerts."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

from pydantic import Field, IPvAnyNetwork

from sidecar.settings.sections import Section, is_loopback


class OtlpProtocol(enum.Enum):
    """Protocol to a collector, in the words of OTEL_EXPORTER_OTLP_PROTOCOL."""

    GRPC = "grpc"
    HTTP = "http/protobuf"


class StatusPageAccess(enum.Enum):
    """Addresses that serve the page of charts: loopback alone, those of metrics, or none."""

    LOOPBACK = "loopback"
    ON = "on"
    OFF = "off"


class TelemetrySettings(Section):
    """Destinations of spans and metrics, and the selection of log lines."""

    otlp_endpoint: Annotated[str, Field(pattern="^https?://[^/]")] | None = None
    """For example `http://127.0.0.1:4317`, over HTTP without a path; None exports no spans."""
    otlp_protocol: OtlpProtocol = OtlpProtocol.GRPC
    kept_traces_per_second: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """At most so many requests of one worker that Envoy did not sample are traced, because they
    were blocked, failed, slow or not checked; 0: none."""
    metrics_push_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Interval at which all metrics are pushed to the same collector; 0 pushes none."""
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    status_page: StatusPageAccess = StatusPageAccess.LOOPBACK
    """`/status` beside `/metrics`. It shows no more than those, but in any browser."""
    host_names: Annotated[str, Field(pattern="^[a-z0-9.,-]*$")] = ""
    """Host names, separated by commas, that browsers may use beside localhost and addresses."""
    slow_request_ms: Annotated[float, Field(gt=0)] = 250.0
    completed_log_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the log lines about requests that passed unchanged, quick, without findings."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"

    @property
    def is_local(self) -> bool:
        """Return whether metrics are served to this machine alone."""
        return is_loopback(self.metrics_host)

    @property
    def has_status_page(self) -> bool:
        """Return whether `/status` is served."""
        return self.status_page is StatusPageAccess.ON or (
            self.status_page is StatusPageAccess.LOOPBACK and self.is_local
        )


class AlertSettings(Section):
    """Checks of the rules of alerts, and the way to their receivers."""

    secrets_directory: Path = Path("/etc/egret/alerts")
    """Holds the files that routes name by `file:`; read anew for each message."""
    allowed_networks: tuple[IPvAnyNetwork, ...] = ()
    """Private networks that webhooks may lead to, such as `["10.0.0.0/8"]`, also by
    plain HTTP; addresses of metadata servers stay refused."""
    check_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """How often the rules are checked."""
