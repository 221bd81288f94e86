"""Checks Envoy configurations for settings that let requests pass, leak or fail."""
