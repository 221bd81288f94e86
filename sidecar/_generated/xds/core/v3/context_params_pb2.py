"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

ContextParams = pool.message_class("xds.core.v3.ContextParams")
