"""gRPC servers: they carry bytes, and know nothing of their meaning."""
