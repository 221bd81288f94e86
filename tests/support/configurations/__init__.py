"""Configurations in the manner of public examples, for `egret lint` and for Envoy itself."""
