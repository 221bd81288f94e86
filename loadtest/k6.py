"""Runs k6 and reads what it measured: open loops, many keys, requests of many kinds."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from loadtest.load import Load, LoadError, Measured, Target
from sidecar.settings.sections import inherited_environment

PROGRAM: Final = Path(sys.executable).with_name("k6")
SCRIPT: Final = Path(__file__).with_name("load.js")

ADMITTED_LATENCY: Final = "http_req_duration{expected_response:true}"
"""k6's own name for the latency of answers below 400."""


async def put_load(load: Load, *, target: Target, seconds: float, scratch: Path) -> Measured:
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
    if target.keys is not None:
        environment |= {"KEYS_FILE": str(target.keys), "DRAW": target.draw.value}
    summary = await run_k6(SCRIPT, load, environment, seconds=seconds, scratch=scratch)
    return read_summary(summary, seconds=seconds)


async def run_k6(
    script: Path, load: Load, environment: Mapping[str, str], *, seconds: float, scratch: Path
) -> Mapping[str, Any]:
    """Run *script* with *load* and return what it hands to `handleSummary`.

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
            str(PROGRAM),
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
