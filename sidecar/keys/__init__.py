"""API keys: credentials, authorization, and the caches of key records."""
