"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

LogsData = pool.message_class("opentelemetry.proto.logs.v1.LogsData")
ResourceLogs = pool.message_class("opentelemetry.proto.logs.v1.ResourceLogs")
ScopeLogs = pool.message_class("opentelemetry.proto.logs.v1.ScopeLogs")
LogRecord = pool.message_class("opentelemetry.proto.logs.v1.LogRecord")
SeverityNumber = pool.enum("opentelemetry.proto.logs.v1.SeverityNumber")
LogRecordFlags = pool.enum("opentelemetry.proto.logs.v1.LogRecordFlags")
