"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

ProcessingMode = pool.message_class("envoy.extensions.filters.http.ext_proc.v3.ProcessingMode")
