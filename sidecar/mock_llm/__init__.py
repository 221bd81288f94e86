"""A stand-in for the LLM providers: deterministic, offline, and it shows what it was sent."""
