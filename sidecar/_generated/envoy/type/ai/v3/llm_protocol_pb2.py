"""Made by proto/extract_envoy.py from Envoy 1.40.0; do not edit."""

from sidecar._generated import pool

LLMProtocol = pool.enum("envoy.type.ai.v3.LLMProtocol")
