"""Envoy's ext_proc as a protocol: messages, the rules of one stream, and its I/O."""
