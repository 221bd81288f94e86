"""Sizes of tests that take long: small in `make test`, in full in `make test-full`."""

from __future__ import annotations

_chosen = {"full": False}


def choose_full(*, is_full: bool) -> None:
    """Choose the sizes of this run, before test modules are imported."""
    _chosen["full"] = is_full


def sized(full: int, *, small: int) -> int:
    """Return the number of rows, requests or examples of this run."""
    return full if _chosen["full"] else small
