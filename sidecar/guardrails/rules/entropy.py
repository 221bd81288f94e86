"""How random a string looks."""

from __future__ import annotations

import math
from collections import Counter


def bits_per_character(text: bytes) -> float:
    """Return the Shannon entropy of the byte frequencies, 0.0 for empty text."""
    if not text:
        return 0.0
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in Counter(text).values())
