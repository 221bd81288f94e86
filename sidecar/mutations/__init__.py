"""From a decision to what Envoy is told to change. Pure."""
