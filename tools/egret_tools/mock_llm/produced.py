"""How many tokens the mock produced for each request, so that other counts can be compared.

A request is known by the `x-request-id` that its answer carries, as with a real provider.
"""

from __future__ import annotations

import array
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "req_mock_"
MAX_KEPT: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Produced:
    """The tokens of one request; `is_complete` once all of the answer was written."""

    request_id: str
    input_tokens: int
    output_tokens: int
    is_complete: bool


class ProducedTokens:
    """One row a request, some 25 bytes each."""

    def __init__(self) -> None:
        self._rows = array.array("q")

    @property
    def count(self) -> int:
        """How many requests there were."""
        return len(self._rows) // 3

    def begin(self) -> int:
        """Return the number of a new request; nothing is produced for it yet."""
        if self.count >= MAX_KEPT:
            self._rows = array.array("q")
        self._rows.extend((0, 0, 0))
        return self.count - 1

    def answer(self, number: int, *, input_tokens: int, output_tokens: int) -> None:
        """Note the tokens of an answer when it is written whole."""
        self._rows[3 * number], self._rows[3 * number + 1] = input_tokens, output_tokens

    def complete(self, number: int) -> None:
        """Note that the answer was written whole."""
        self._rows[3 * number + 2] = 1

    def rows(self, *, start: int, limit: int) -> list[Produced]:
        """Return requests in the order they came."""
        return [
            Produced(
                f"{PREFIX}{number}",
                self._rows[3 * number],
                self._rows[3 * number + 1],
                bool(self._rows[3 * number + 2]),
            )
            for number in range(start, min(start + limit, self.count))
        ]
