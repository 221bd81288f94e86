"""The CPU time of a call, to be compared with another in the same run, and its work in Python."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


def least_seconds(call: Callable[[], object], *, tries: int = 3) -> float:
    """Return the CPU time of *call* in seconds, the least of several."""
    taken: list[float] = []
    for _ in range(tries):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)


def python_calls(call: Callable[[], object]) -> int:
    """Return how many functions written in Python are called meanwhile."""
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls


def python_lines(call: Callable[[], object]) -> int:
    """Return how many lines of Python run meanwhile, those of loops each time."""
    lines = 0

    def count(_: FrameType, event: str, __: object) -> Callable[..., Any]:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines
