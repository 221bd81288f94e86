"""Egret: the guard behind Envoy's ext_proc filter for LLM egress."""

__version__ = "0.1.0"
