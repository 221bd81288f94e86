"""Counts of right and wrong answers, and how sure a share of them is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

Z: Final = 1.959964
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many, with its 95 % confidence interval (Wilson)."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share itself; of nothing it is zero."""
        return self.count / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The interval, which is meaningful for few texts and for shares near 0 and 1 too."""
        if not self.total:
            return 0.0, 1.0
        share, n = self.value, self.total
        middle = share + Z * Z / (2 * n)
        spread = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
        scale = 1 + Z * Z / n
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)

    @override
    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True, slots=True)
class Tally:
    """What a detector found of one type."""

    found: int
    missed: int
    wrong: int

    @property
    def precision(self) -> Share:
        """Of what it reported, the share that is there."""
        return Share(self.found, self.found + self.wrong)

    @property
    def recall(self) -> Share:
        """Of what is there, the share it reported."""
        return Share(self.found, self.found + self.missed)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        both = 2 * self.found
        return both / (both + self.missed + self.wrong) if both else 0.0
