"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

AnyValue = pool.message_class("opentelemetry.proto.common.v1.AnyValue")
ArrayValue = pool.message_class("opentelemetry.proto.common.v1.ArrayValue")
KeyValueList = pool.message_class("opentelemetry.proto.common.v1.KeyValueList")
KeyValue = pool.message_class("opentelemetry.proto.common.v1.KeyValue")
InstrumentationScope = pool.message_class("opentelemetry.proto.common.v1.InstrumentationScope")
EntityRef = pool.message_class("opentelemetry.proto.common.v1.EntityRef")
