"""Replaces findings by placeholders, and restores their values in the answer."""
