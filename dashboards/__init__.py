"""Grafana dashboards as code, and their pictures from a real run. Not part of the package."""
