"""Puts a load on an address by the program that is best at it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from egret_tools.cli.bench import percentile

from loadtest.load import PERCENTILES, Load, LoadError, Measured, Target
from sidecar.settings.sections import inherited_environment

H2LOAD: Final = "h2load"
_SUCCESS: Final = range(200, 400)


async def put_closed_loop(
    load: Load, *, target: Target, seconds: float, scratch: Path
) -> Measured:
    """Load *target* for *seconds*; `https` is HTTP/2, all else HTTP/1.1.

    Raises:
        LoadError: h2load is not there or failed.
    """
    program = shutil.which(H2LOAD)
    if program is None:
        raise LoadError(f"{H2LOAD} is not there: run `make system` (Debian: nghttp2-client)")
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
        raise LoadError(f"{H2LOAD} exited {process.returncode}: {tail}")
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
        raise LoadError(f"{H2LOAD} made no request")
    latencies.sort()  # once for all percentiles: sorting a sorted list is fast
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


K6: Final = Path(sys.executable).with_name("k6")
SCRIPT: Final = Path(__file__).with_name("load.js")

ADMITTED_LATENCY: Final = "http_req_duration{expected_response:true}"
"""k6's own name for the latency of answers below 400."""


async def put_by_k6(load: Load, *, target: Target, seconds: float, scratch: Path) -> Measured:
    """Load *target* for *seconds*; blocks the caller's task, not the loop.

    Raises:
        LoadError: k6 could not be run or failed.
    """
    environment = {
        "URL": target.url,
        "API_KEY": target.key.get_secret_value(),
        "BODY_FILE": str(target.body.absolute()),
        "HEADERS": json.dumps(dict(target.headers)),
    }
    summary = await run_k6(SCRIPT, load, environment, seconds=seconds, scratch=scratch)
    return read_summary(summary, seconds=seconds)


async def run_k6(
    script: Path, load: Load, environment: Mapping[str, str], *, seconds: float, scratch: Path
) -> Mapping[str, Any]:
    """Run *script* with *load* and return the argument of its `handleSummary`.

    Raises:
        LoadError: k6 could not be run or failed.
    """
    summary = scratch / "k6-summary.json"
    summary.unlink(missing_ok=True)
    whole = {
        **inherited_environment(),
        **environment,
        "CONNECTIONS": str(load.connections),
        "SECONDS": f"{seconds:g}",
        "SUMMARY_FILE": str(summary.absolute()),
    }
    if load.rate is not None:
        whole["RATE"] = str(load.rate)
    log = scratch / "k6.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(K6),
            *("run", "--quiet", "--no-usage-report", "--no-color", "--address", "", str(script)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=whole,
        )
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not summary.exists():
        tail = log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
        raise LoadError(f"k6 exited {process.returncode}: {tail}")
    loaded: Mapping[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return loaded


def read_summary(summary: Mapping[str, Any], *, seconds: float) -> Measured:
    """Read the object k6 hands to `handleSummary`. A metric that never came up is not in it.

    The rate is over the time the load lasted as planned: k6's own `rate` also counts its start.

    Raises:
        LoadError: not one request was made.
    """
    metrics = summary["metrics"]
    requests = int(_value(metrics, "http_reqs", "count"))
    if not requests:
        raise LoadError("k6 made no request")
    latency = metrics["http_req_duration"]["values"]
    return Measured(
        requests=requests,
        seconds=seconds,
        # A rate's `passes` are those for which it is true, here: which failed.
        errors=int(_value(metrics, "http_req_failed", "passes")),
        dropped=int(_value(metrics, "dropped_iterations", "count")),
        p50_ms=latency["med"],
        p95_ms=latency["p(95)"],
        p99_ms=latency["p(99)"],
        max_ms=latency["max"],
        refused=int(_value(metrics, "refused", "count")),
        admitted_p99_ms=_value(metrics, ADMITTED_LATENCY, "p(99)"),
        quantiles_ms={
            float(name[2:-1]): value for name, value in latency.items() if name.startswith("p(")
        },
    )


def _value(metrics: Mapping[str, Any], name: str, field: str) -> float:
    metric = metrics.get(name)
    return 0.0 if metric is None else float(metric["values"][field])


async def put_load(load: Load, *, target: Target, seconds: float, scratch: Path) -> Measured:
    """Load *target* for *seconds*: a closed loop by h2load, an open one by k6.

    Raises:
        LoadError: the program could not be run or failed.
    """
    if load.rate is None:
        return await put_closed_loop(load, target=target, seconds=seconds, scratch=scratch)
    return await put_by_k6(load, target=target, seconds=seconds, scratch=scratch)
