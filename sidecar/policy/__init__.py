"""Policies: documents, parsing, lint, compilation, and the snapshot that workers judge by."""
