"""Envoy's ext_proc messages, made by `make proto` from the descriptors in Envoy itself."""
