"""Checks of texts: rules and models in one local pass, remote checks, streams of answers."""
