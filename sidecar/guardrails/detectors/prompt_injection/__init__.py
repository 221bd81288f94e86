"""The `prompt_injection` guardrail."""
