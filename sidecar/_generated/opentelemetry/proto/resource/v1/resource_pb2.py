"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

Resource = pool.message_class("opentelemetry.proto.resource.v1.Resource")
