"""Servers that judge nothing, for the conformance suite."""
