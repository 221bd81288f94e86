"""Trains the model of the `prompt_injection` guardrail; nothing here runs in a worker."""
