"""Guardrails that ask a server."""
