"""Guardrails that judge the texts of a request as a whole: a count or a score decides."""
