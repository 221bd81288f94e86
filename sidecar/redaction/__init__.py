"""Replaces what guardrails found by placeholders, and turns placeholders back."""
