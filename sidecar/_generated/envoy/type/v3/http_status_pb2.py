"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

HttpStatus = pool.message_class("envoy.type.v3.HttpStatus")
StatusCode = pool.enum("envoy.type.v3.StatusCode")
