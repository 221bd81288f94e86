"""Guardrails on streamed answers."""
