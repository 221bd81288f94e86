"""Decoders of obfuscated text."""
