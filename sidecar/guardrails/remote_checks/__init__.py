"""How each type of remote guardrail is asked over HTTP, and the care around every asker."""
