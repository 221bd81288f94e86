"""Builds every part, starts and stops them in order."""
