"""A mock of the LLM providers, for demos and tests."""
