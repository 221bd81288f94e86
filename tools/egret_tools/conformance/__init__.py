"""A conformance suite for ext_proc servers, driven through a real Envoy."""
