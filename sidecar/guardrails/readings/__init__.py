"""Readings of text that was written so as not to be read; a model reads through all of these."""
