"""A small LLM provider over TLS for the embedded stack, tests and demo."""
