"""One check, asked again after a failure that passes, or beside an answer that does not come.

Judging changes nothing at the server, so that asking twice is safe; it is not free, and only what
a second attempt can help is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from sidecar.domain.finding import RemoteEvent
from sidecar.domain.remote_guardrails import RemoteCare
from sidecar.guardrails.remote import RemoteAnswer, RemoteCheckError, RemoteFault

FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.25

Ask = Callable[[], Awaitable[RemoteAnswer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How one check may be asked. `jitter` gives numbers from 0 to 1; `until` is on the clock."""

    care: RemoteCare
    until: float
    clock: Callable[[], float]
    jitter: Callable[[], float]
    note: Callable[[RemoteEvent], None]
    place: Callable[[], AbstractContextManager[None]]
    """A further place at the server, for a hedge; raises where there is none."""

    async def answer(self, ask: Ask) -> RemoteAnswer:
        """Return the first answer.

        Raises:
            RemoteCheckError: the last failure, where there is none.
        """
        if self.care.hedge_after_seconds is None:
            return await self._with_retries(ask)
        return await self._hedged(ask, self.care.hedge_after_seconds)

    async def _with_retries(self, ask: Ask) -> RemoteAnswer:
        for attempt in range(self.care.retries):
            try:
                return await ask()
            except RemoteCheckError as error:
                pause = self.jitter() * min(
                    FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS
                )
                if error.fault is not RemoteFault.TRANSIENT or self.clock() + pause >= self.until:
                    raise
            self.note(RemoteEvent.RETRY)
            await asyncio.sleep(pause)
        return await ask()

    async def _hedged(self, ask: Ask, after_seconds: float) -> RemoteAnswer:
        loop = asyncio.get_running_loop()
        first = loop.create_task(_awaited(self._with_retries(ask)))
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=after_seconds)
            if not first.done():
                tasks.append(loop.create_task(self._hedge(ask, first)))
            return await self._first_of(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hedge(self, ask: Ask, first: asyncio.Task[RemoteAnswer]) -> RemoteAnswer:
        with self.place():
            self.note(RemoteEvent.HEDGE)
            answer = await ask()
        if not first.done():
            self.note(RemoteEvent.HEDGE_WON)
        return answer

    async def _first_of(self, tasks: list[asyncio.Task[RemoteAnswer]]) -> RemoteAnswer:
        """Return the first answer; where all fail, the first task's failure."""
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return task.result()
        return tasks[0].result()


async def _awaited(pending: Awaitable[RemoteAnswer]) -> RemoteAnswer:
    return await pending
