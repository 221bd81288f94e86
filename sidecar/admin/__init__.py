"""Administration of owners, keys, policies and limits in PostgreSQL, without an interface."""
