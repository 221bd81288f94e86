"""Runs the stages of one exchange in order; the only orchestration."""
