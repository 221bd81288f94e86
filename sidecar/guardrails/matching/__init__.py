"""Matching: the Hyperscan database, rules, spans, and views of a text."""
