"""The `prompt_injection` guardrail: phrases, a linear model, and where in a text they add up."""
