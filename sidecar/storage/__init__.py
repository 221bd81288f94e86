"""Adapters for ports: PostgreSQL, Valkey, and the usage spool on disk."""
