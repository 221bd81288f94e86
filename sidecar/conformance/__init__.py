"""Cases as data, run against any ext_proc server through a real Envoy."""
