"""gRPC servers: they carry bytes between Envoy and the ext_proc stream, without decoding them."""
