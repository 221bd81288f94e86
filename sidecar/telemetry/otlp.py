"""The ways to an OTLP collector, by protocol. Only the exporter that is asked for is loaded.

This module loads the OpenTelemetry SDK; import it only where an endpoint is configured.
"""

from __future__ import annotations

from typing import Final, assert_never

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter

from sidecar.settings.telemetry import OtlpProtocol
from sidecar.telemetry.names import SERVICE_NAME, SemconvAttribute

EXPORT_SECONDS: Final = 5.0
"""How long one export is tried, retries included."""

TRACES_PATH: Final = "/v1/traces"
METRICS_PATH: Final = "/v1/metrics"


def span_exporter(endpoint: str, protocol: OtlpProtocol) -> SpanExporter:
    """Return what brings spans to *endpoint*; for HTTP that is the address without a path."""
    match protocol:
        case OtlpProtocol.GRPC:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter as SpansOverGrpc,
            )

            return SpansOverGrpc(endpoint=endpoint, timeout=EXPORT_SECONDS)
        case OtlpProtocol.HTTP:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter as SpansOverHttp,
            )

            return SpansOverHttp(endpoint=_url(endpoint, TRACES_PATH), timeout=EXPORT_SECONDS)
        case _:
            assert_never(protocol)


def metric_exporter(endpoint: str, protocol: OtlpProtocol) -> MetricExporter:
    """Return what brings metrics there."""
    match protocol:
        case OtlpProtocol.GRPC:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
                OTLPMetricExporter as MetricsOverGrpc,
            )

            return MetricsOverGrpc(endpoint=endpoint, timeout=EXPORT_SECONDS)
        case OtlpProtocol.HTTP:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
                OTLPMetricExporter as MetricsOverHttp,
            )

            return MetricsOverHttp(endpoint=_url(endpoint, METRICS_PATH), timeout=EXPORT_SECONDS)
        case _:
            assert_never(protocol)


def resource(*, version: str, instance: str) -> Resource:
    """Return who we are to a collector."""
    return Resource.create(
        {
            SemconvAttribute.SERVICE_NAME: SERVICE_NAME,
            SemconvAttribute.SERVICE_VERSION: version,
            SemconvAttribute.SERVICE_INSTANCE_ID: instance,
        }
    )


def _url(endpoint: str, path: str) -> str:
    return endpoint.rstrip("/") + path
