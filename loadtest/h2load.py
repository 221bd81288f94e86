"""Runs h2load and reads what it measured: closed loops of one request.

It runs no script for each request, as k6 does, which leaves more of a small machine to what is
measured. It is a program of the system (Debian: nghttp2-client).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from loadtest.figures import percentile
from loadtest.load import PERCENTILES, Load, LoadError, Measured, Target
from sidecar.settings.sections import inherited_environment

PROGRAM: Final = "h2load"
_SUCCESS: Final = range(200, 400)


async def put_closed_loop(
    load: Load, *, target: Target, seconds: float, scratch: Path
) -> Measured:
    """Load *target* for *seconds*; `https` is HTTP/2, all else HTTP/1.1.

    Raises:
        LoadError: h2load is not there or failed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise LoadError(f"{PROGRAM} is not there: run `make system` (Debian: nghttp2-client)")
    log = scratch / "h2load.tsv"
    log.unlink(missing_ok=True)
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {target.key.get_secret_value()}",
        **target.headers,
    }
    process = await asyncio.create_subprocess_exec(
        program,
        *(() if target.url.startswith("https:") else ("--h1",)),
        *("--threads=1", f"--clients={load.connections}"),
        *(f"--duration={round(seconds * 1000)}ms", f"--data={target.body.absolute()}"),
        *(f"--header={name}: {value}" for name, value in headers.items()),
        *(f"--log-file={log}", target.url),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=inherited_environment(),
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not log.exists():
        tail = output.decode("utf-8", "replace").strip()[-2000:]
        raise LoadError(f"{PROGRAM} exited {process.returncode}: {tail}")
    with log.open(encoding="ascii") as lines:
        return read_log(lines, seconds=seconds)


def read_log(lines: Iterable[str], *, seconds: float) -> Measured:
    """Read a line a request: when it began, its status, and the microseconds it took.

    Raises:
        LoadError: not one request was made.
    """
    latencies: list[int] = []
    errors = 0
    for line in lines:
        _, status, microseconds = line.split("\t")[:3]
        latencies.append(int(microseconds))
        errors += int(status) not in _SUCCESS  # -1 is one that failed without an answer
    if not latencies:
        raise LoadError(f"{PROGRAM} made no request")
    latencies.sort()  # once for all percentiles: what is sorted is sorted again in no time
    return Measured(
        requests=len(latencies),
        seconds=seconds,
        errors=errors,
        dropped=0,
        p50_ms=percentile(latencies, 50) / 1000,
        p95_ms=percentile(latencies, 95) / 1000,
        p99_ms=percentile(latencies, 99) / 1000,
        max_ms=latencies[-1] / 1000,
        quantiles_ms={percent: percentile(latencies, percent) / 1000 for percent in PERCENTILES},
    )
