"""The way of a request through one worker, from its headers to its answer and its records."""
