"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

TokenUsage = pool.message_class("envoy.data.ai.v3.TokenUsage")
InputTokenDetails = pool.message_class("envoy.data.ai.v3.InputTokenDetails")
OutputTokenDetails = pool.message_class("envoy.data.ai.v3.OutputTokenDetails")
