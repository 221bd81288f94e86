from __future__ import annotations

import random
import string

from sidecar.guardrails.detectors.randomness import is_random


def test_a_random_value_is_random_in_its_own_alphabet() -> None:
    """Of 32 random hexadecimal digits, one of five has less than 3.5 bits a character."""
    draw = random.Random(7)  # noqa: S311 - made-up keys, the same each time
    for alphabet, least in (("0123456789abcdef", 32), (string.ascii_lowercase + "0123456789", 24)):
        keys = ["".join(draw.choices(alphabet, k=least)) for _ in range(1_000)]
        assert sum(is_random(key.encode()) for key in keys) >= 990
