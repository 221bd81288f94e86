"""Detectors: one module per kind of finding."""
