"""A Valkey in this process that fails as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class MadeUpValkey:
    """The commands of a cluster that are used, over a dictionary.

    `trouble` is raised, or an answer is waited for without end. `left_out` values are missing at
    the beginning of an answer of several.
    """

    values: dict[str, Any] = field(default_factory=dict)
    trouble: Exception | None = None
    is_silent: bool = False
    left_out: int = 0
    asked: int = 0

    async def answer(self, answer: object) -> object:
        """Return *answer*, unless the server is in trouble."""
        self.asked += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return answer

    async def get(self, name: str) -> object:
        """Return a value."""
        return await self.answer(self.values.get(name))

    async def mget_nonatomic(self, names: Sequence[str]) -> object:
        """Return values."""
        return await self.answer([self.values.get(one) for one in names[self.left_out :]])

    async def set(self, name: str, value: bytes, *, px: int) -> object:
        """Keep a value."""
        assert px == 600_000
        answer = await self.answer("OK")
        self.values[name] = value
        return answer

    async def unlink(self, name: str) -> object:
        """Forget a value."""
        return await self.answer(int(self.values.pop(name, None) is not None))

    def pipeline(self, *, transaction: bool) -> MadeUpPipeline:
        """Return commands that are sent together."""
        assert not transaction  # the names may be on several nodes
        return MadeUpPipeline(self)


@dataclass
class MadeUpPipeline:
    """Values to keep, with one answer."""

    valkey: MadeUpValkey
    values: dict[str, bytes] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave nothing behind."""

    def set(self, name: str, value: bytes, *, px: int) -> None:
        """Add a value."""
        assert px == 600_000
        self.values[name] = value

    async def execute(self) -> object:
        """Keep the values."""
        answer = await self.valkey.answer("OK")
        self.valkey.values |= self.values
        return answer
