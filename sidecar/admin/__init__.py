"""Administration in PostgreSQL, used by the command line only."""
