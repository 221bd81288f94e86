"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

Percent = pool.message_class("envoy.type.v3.Percent")
FractionalPercent = pool.message_class("envoy.type.v3.FractionalPercent")
