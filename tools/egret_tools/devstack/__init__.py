"""A whole stack on one machine: PostgreSQL, Valkey, workers, mock LLM, Envoy."""
