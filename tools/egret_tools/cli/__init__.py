"""Commands of the tools: up, demo, lint, conformance, bench, envoy."""
