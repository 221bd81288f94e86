"""Usage of requests from Envoy's access log: tokens reported or estimated, and their price."""
