"""Answers judged by a JSON Schema: the schema's own check, its weight, and the judgement."""
