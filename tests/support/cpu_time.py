"""The CPU time of a call, to be compared with that of another call in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable


def least_seconds(call: Callable[[], object], *, tries: int = 3) -> float:
    """Return the CPU time of *call* in seconds, the least of several."""
    taken: list[float] = []
    for _ in range(tries):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)
