"""Puts a load on an address by the program that is best at it."""

from __future__ import annotations

from pathlib import Path

from loadtest import h2load, k6
from loadtest.load import Load, Measured, Target


async def put_load(load: Load, *, target: Target, seconds: float, scratch: Path) -> Measured:
    """Load *target* for *seconds*: a closed loop of one key by h2load, all else by k6.

    Raises:
        LoadError: the program could not be run or failed.
    """
    if load.rate is None and target.keys is None:
        return await h2load.put_closed_loop(load, target=target, seconds=seconds, scratch=scratch)
    return await k6.put_load(load, target=target, seconds=seconds, scratch=scratch)
