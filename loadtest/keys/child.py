"""A process with a worker's caches, for the bench of keys; commands are lines.

    python -m loadtest.keys.child hold     fills its cache with the ids of its input, then waits
    python -m loadtest.keys.child watch    prints the time of refusal for each id of its input

Settings come from the environment, as a worker's do. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

from loadtest.keys.stack import bench_caches, bench_key, log_to_stderr
from sidecar.domain.errors import ErrorKind
from sidecar.keys.cache import Hit, NegativeHit
from sidecar.keys.credentials import authorize
from sidecar.settings.process import Settings
from sidecar.worker.keys import WorkerKeys

REFUSED_WITHIN_SECONDS: Final = 40.0
"""Longer than the time to live, which holds if a notification is lost."""
POLL_SECONDS: Final = 0.0005
LOADS_AT_ONCE: Final = 32


async def _hold(keys: WorkerKeys, ids: asyncio.Queue[str]) -> None:
    wanted = int(await ids.get())

    async def load_some() -> None:
        for key_id in pending:
            await keys.cache.load(key_id, now=time.monotonic)

    pending = iter([await ids.get() for _ in range(wanted)])
    await asyncio.gather(*(load_some() for _ in range(LOADS_AT_ONCE)))
    _say(str(keys.cache.key_count))
    while await ids.get():
        pass


async def _watch(keys: WorkerKeys, ids: asyncio.Queue[str]) -> None:
    while key_id := await ids.get():
        if await _is_refused(keys, key_id):
            raise ValueError("the key was refused before it was revoked")
        _say("ready")
        give_up_at = time.monotonic() + REFUSED_WITHIN_SECONDS
        while not await _is_refused(keys, key_id):
            if time.monotonic() > give_up_at:
                raise TimeoutError("the key is not refused")
            await asyncio.sleep(POLL_SECONDS)
        _say(repr(time.monotonic()))  # Linux: one clock for all processes (clock_gettime(2))


async def _is_refused(keys: WorkerKeys, key_id: str) -> bool:
    """Judge the key as a request with it would be."""
    found = keys.cache.peek(key_id, now=time.monotonic())
    if isinstance(found, Hit):
        record = found.record
    elif isinstance(found, NegativeHit):
        return True
    else:
        loaded = await keys.cache.load(key_id, now=time.monotonic)
        if loaded.record is None:
            return True
        record = loaded.record
    return isinstance(authorize(record, bench_key(key_id), now=time.time()), ErrorKind)


def _say(line: str) -> None:
    print(line, flush=True)


async def _lines_into(ids: asyncio.Queue[str]) -> None:
    # Not in a thread: one that waits for a line would keep a process alive whose job has failed.
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        ids.put_nowait(line.decode("ascii").strip())
    ids.put_nowait("")


async def _main(job: str) -> None:
    ids: asyncio.Queue[str] = asyncio.Queue()
    async with bench_caches(Settings()) as keys, asyncio.TaskGroup() as group:
        group.create_task(_lines_into(ids))
        await {"hold": _hold, "watch": _watch}[job](keys, ids)


if __name__ == "__main__":
    log_to_stderr()
    asyncio.run(_main(sys.argv[1]))
