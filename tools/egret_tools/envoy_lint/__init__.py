"""Lints Envoy configurations for what Egret needs."""
