"""The gRPC server: it carries bytes between Envoy and the ext_proc stream, without decoding."""
