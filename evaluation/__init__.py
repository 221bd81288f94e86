"""Measures how well the guardrails find what they look for, beside other detectors."""
