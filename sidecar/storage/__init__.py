"""Adapters for ports: PostgreSQL, Valkey."""
