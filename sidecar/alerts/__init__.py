"""Alerts that reach people: rules over the database, an outbox, and channels to receivers."""
