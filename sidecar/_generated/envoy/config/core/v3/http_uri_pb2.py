"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

HttpUri = pool.message_class("envoy.config.core.v3.HttpUri")
