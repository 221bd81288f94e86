"""From authorization and guardrail results to the one answer. Pure."""
