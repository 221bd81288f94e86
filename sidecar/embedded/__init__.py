"""The whole stack on one machine: real PostgreSQL, Valkey, Envoy, workers and a mock LLM."""
