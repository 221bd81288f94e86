"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

ExportLogsServiceRequest = pool.message_class("opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest")
ExportLogsServiceResponse = pool.message_class("opentelemetry.proto.collector.logs.v1.ExportLogsServiceResponse")
ExportLogsPartialSuccess = pool.message_class("opentelemetry.proto.collector.logs.v1.ExportLogsPartialSuccess")
