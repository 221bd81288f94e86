"""A worker process and its supervisor: wiring, start, drain."""
