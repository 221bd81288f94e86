"""Spans, metrics and log lines, by name and field; never content or credentials."""
