"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

SemanticVersion = pool.message_class("envoy.type.v3.SemanticVersion")
