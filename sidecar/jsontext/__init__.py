"""JSON as bytes: strict parsing, tokens, and edits that leave every other byte as it was."""
